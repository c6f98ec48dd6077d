//! The files that decide how a container resolves names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::control::Setup;
use crate::wire::admin::Container;

/// Links followed before a path is given up as a loop, as the kernel has it.
const MAX_LINKS: usize = 40;

/// A file to lie over the machine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Where programs look for it.
    pub path: PathBuf,
    /// What they shall find.
    pub contents: String,
}

/// The files of one container; what is not needed on this machine is left out.
pub fn overlays(setup: &Setup) -> Vec<Overlay> {
    let overlay = |path: &str, contents: String| Overlay { path: path.into(), contents };
    let mut overlays = vec![
        overlay("/etc/resolv.conf", setup.resolv_conf.clone()),
        overlay("/etc/hosts", setup.hosts.clone()),
    ];
    // A machine without this file has a libc that does not read it.
    if let Ok(switch) = fs::read_to_string("/etc/nsswitch.conf") {
        overlays.push(overlay("/etc/nsswitch.conf", hosts_from_files_and_dns(&switch)));
    }
    overlays
}

/// /etc/hosts of a container: itself, under its name.
pub fn hosts(container: &Container) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for address in [&container.ipv4, &container.i6pn] {
        if !address.is_empty() {
            text += &format!("{address} {}\n", container.name);
        }
    }
    text
}

/// The file that a path leads to at last, made empty where there is none: to programs an empty
/// file says the same as a missing one, and only what exists can be mounted upon.
pub fn ensure_file(path: &Path) -> io::Result<PathBuf> {
    let target = follow_links(path)?;
    match fs::OpenOptions::new().write(true).create_new(true).open(&target) {
        Ok(_empty) => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(target),
        // The directory may be absent as well: resolver daemons make theirs when they start.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(directory) = target.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::File::create(&target).map(|_empty| target)
        }
        // On a read-only file system a file that is there will do.
        Err(_) if target.exists() => Ok(target),
        Err(error) => Err(error),
    }
}

/// Names are looked up in files and by DNS only: other services would ask the machine's own
/// resolver through a socket, which knows no container.
fn hosts_from_files_and_dns(switch: &str) -> String {
    let is_hosts = |line: &&str| line.trim_start().starts_with("hosts:");
    let others = switch.lines().filter(|line| !is_hosts(line));
    others.chain(["hosts: files dns"]).map(|line| format!("{line}\n")).collect()
}

fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        if !is_link {
            return Ok(path);
        }
        let target = fs::read_link(&path)?;
        // An absolute target replaces the whole path.
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_hosts_line_is_replaced_or_added() {
        let switch = "passwd: files systemd\nhosts: mymachines resolve dns\n#hosts: old\n";
        let expected = "passwd: files systemd\n#hosts: old\nhosts: files dns\n";
        assert_eq!(hosts_from_files_and_dns(switch), expected);
        assert_eq!(hosts_from_files_and_dns(""), "hosts: files dns\n");
    }

    #[test]
    fn a_container_knows_itself_by_name() {
        let container = Container {
            name: "web".into(),
            ipv4: "100.64.0.2".into(),
            i6pn: "fdaa::2".into(),
            ..Container::default()
        };
        let text = hosts(&container);
        assert!(text.contains("\n100.64.0.2 web\n") && text.contains("\nfdaa::2 web\n"), "{text}");
    }

    #[test]
    fn a_dangling_link_gets_a_target() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("resolv.conf");
        symlink("run/resolve/stub.conf", &link).unwrap();
        let target = ensure_file(&link).unwrap();
        assert_eq!(target, dir.path().join("run/resolve/stub.conf"));
        assert_eq!(fs::read(&link).unwrap(), b"");
        fs::write(&link, "kept").unwrap();
        assert_eq!(ensure_file(&link).unwrap(), target);
        assert_eq!(fs::read(&link).unwrap(), b"kept");
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(ensure_file(&dir.path().join("a")).is_err());
    }
}
