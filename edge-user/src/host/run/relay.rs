//! What a rank prints, line by line, with the rank before it.

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};

/// Bytes of a line; a longer one comes in parts.
const LINE: u64 = 64 * 1024;

/// Copies lines to stderr until their end, each with the label before it.
pub(super) async fn lines(label: String, from: impl AsyncRead + Unpin) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = label.clone().into_bytes();
        match (&mut from).take(LINE).read_until(b'\n', &mut line).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        let mut to = tokio::io::stderr();
        // A closed stderr is the caller's choice; the program must not wait for it.
        if to.write_all(&line).await.is_ok() {
            to.flush().await.ok();
        }
    }
}
