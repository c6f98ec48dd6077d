//! A server in a container that counts for as long as a test wants, and a client that checks that
//! no number is missing.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use tempfile::TempDir;

use crate::{
    edge::Tunnel,
    lab::{Lab, PATIENCE},
    process::{Running, wait_for},
    tls::host,
};

/// A container whose port 8000 has a front page and a download without an end.
#[derive(Debug)]
pub struct Counting {
    /// `edge run`.
    pub owner: Running,
    /// To its port 8000.
    pub tunnel: Tunnel,
    end: PathBuf,
    _folder: TempDir,
}

/// A download that goes on.
#[derive(Debug)]
pub struct Download {
    count: Arc<AtomicU64>,
    client: JoinHandle<Result<(), String>>,
}

impl Counting {
    /// Starts it, with further options of `edge run`.
    #[track_caller]
    pub fn serve(lab: &Lab, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let end = folder.path().join("end");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/counting.py");
        let script = script.to_str().expect("a path");
        let program = ["python3", script, "8000", end.to_str().expect("a path")];
        let options = [&["--encrypted-port", "8000"], options].concat();
        let (owner, tunnel) = lab.serve(&options, 8000, &program);
        lab.https(&["--fail", &tunnel.url]);
        Self { owner, tunnel, end, _folder: folder }
    }

    /// The name of its tunnel.
    pub fn name(&self) -> &str {
        host(&self.tunnel.url)
    }

    /// Begins a download from the internet.
    #[track_caller]
    pub fn download(&self, lab: &Lab) -> Download {
        let mut stream = lab.tls().connect(self.name());
        let request = format!("GET /count HTTP/1.0\r\nHost: {}\r\n\r\n", self.name());
        stream.write_all(request.as_bytes()).expect("cannot ask");
        let count = Arc::new(AtomicU64::new(0));
        let seen = count.clone();
        let client = thread::spawn(move || {
            let mut lines = BufReader::new(stream).lines();
            // The headers.
            while !lines.next().ok_or("no answer")?.map_err(|e| e.to_string())?.is_empty() {}
            for number in 0.. {
                let line = lines.next().ok_or(format!("ended after {number}"))?;
                match line.map_err(|error| format!("after {number}: {error}"))?.as_str() {
                    "done" => break,
                    line if line == number.to_string() => seen.store(number, Ordering::Relaxed),
                    line => return Err(format!("{line:?} instead of {number}")),
                }
            }
            match lines.next() {
                None => Ok(()),
                more => Err(format!("{more:?} after the end")),
            }
        });
        Download { count, client }
    }

    /// Lets all downloads finish.
    #[track_caller]
    pub fn finish(&self) {
        std::fs::write(&self.end, "").expect("cannot write the file");
    }
}

impl Download {
    /// Waits until more of it has come.
    #[track_caller]
    pub fn wait_more(&self) {
        let before = self.count.load(Ordering::Relaxed);
        wait_for("more of the download", PATIENCE, || {
            (self.count.load(Ordering::Relaxed) > before + 2).then_some(())
        });
    }

    /// Waits for its end: whole, or why not.
    ///
    /// # Errors
    /// What broke.
    #[track_caller]
    pub fn end(self) -> Result<(), String> {
        wait_for("the download to end", PATIENCE, || self.client.is_finished().then_some(()));
        self.client.join().expect("a client")
    }
}
