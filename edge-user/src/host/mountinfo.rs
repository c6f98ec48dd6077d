//! The mounts that a process sees, from /proc/self/mountinfo.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub path: PathBuf,
    /// What it is: `bpf`, `cgroup2`, `ext4` …
    pub kind: String,
}

/// Reads the mounts of this process's namespace, in the order in which they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Those at or below a directory.
pub fn below<'a>(mounts: &'a [Mount], directory: &Path) -> impl Iterator<Item = &'a Mount> {
    mounts.iter().filter(move |mount| mount.path.starts_with(directory))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mount/point options tag… - kind source options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { path, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whatever_their_tags_and_spaces() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            40 23 0:9 / /sys/fs/bpf rw shared:7 master:1 - bpf bpf rw,mode=700\n\
            41 27 254:0 /x /mnt/two\\040words\\134 rw - ext4 /dev/vda rw\n\
            nonsense\n";
        let mounts = parse(text);
        let expected = [("/proc", "proc"), ("/sys/fs/bpf", "bpf"), ("/mnt/two words\\", "ext4")]
            .map(|(path, kind)| Mount { path: path.into(), kind: kind.into() });
        assert_eq!(mounts, expected);
        assert_eq!(below(&mounts, Path::new("/sys")).count(), 1);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(read().unwrap().iter().any(|mount| mount.path == Path::new("/")));
    }
}
