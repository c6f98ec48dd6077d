//! Network namespaces that go with their last handle.

use std::{
    fs::File,
    os::{fd::AsFd, unix::process::CommandExt},
    panic::resume_unwind,
    path::PathBuf,
    process::{self, Command},
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{privilege, process::Start};

/// Every name begins so, and holds the maker's process id: what a killed run left is known.
const MARK: &str = "edge-test";

/// A named network namespace with its loopback up. Clones are handles to the same one;
/// with the last of them go the processes inside and the namespace itself.
#[derive(Debug, Clone)]
pub struct NetNs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes one; the prefix tells a person whose it is.
    #[track_caller]
    pub fn new(prefix: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: Once = Once::new();
        privilege::require();
        SWEPT.call_once(sweep);

        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{MARK}-{}-{number}-{prefix}", process::id());
        ip(&["netns", "add", &name]);
        let file = File::open(path(&name)).unwrap_or_else(|error| {
            panic!("cannot open namespace {name}, which was just made: {error}")
        });
        let made = Self { inner: Arc::new(Inner { name, file }) };
        // Addresses of test wires are unique by construction: no test waits for the kernel
        // to find that out.
        for scope in ["default", "all"] {
            made.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
        }
        made.ip(&["link", "set", "lo", "up"]);
        made
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its file, for programs that attach namespaces by path.
    pub fn path(&self) -> PathBuf {
        path(self.name())
    }

    /// A command that runs inside. The program itself enters: no wrapper stands between the
    /// test and its process id and signals.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.inner);
        // SAFETY: between fork and exec the closure makes one system call and touches neither
        // memory nor locks of the parent.
        unsafe {
            command.pre_exec(move || Ok(setns(inner.file.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        command
    }

    /// Runs the closure on a thread of its own inside, and panics as it panics.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.inner.file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|error| panic!("cannot enter {}: {error}", self.name()));
                inside()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs `ip` inside; returns what it printed.
    #[track_caller]
    pub fn ip(&self, words: &[&str]) -> String {
        self.command("ip").args(words).output_of().ok().stdout
    }

    /// The MAC address of an interface.
    #[track_caller]
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let printed = self.ip(&["-oneline", "link", "show", "dev", interface]);
        let mac = printed.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let bytes = mac.unwrap_or_default().split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes: Result<Vec<u8>, _> = bytes.collect();
        let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        bytes.unwrap_or_else(|| panic!("no MAC address of {interface} in: {printed}"))
    }

    /// Sets a kernel parameter of this namespace, named by its path under `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) {
        // Which namespace /proc/sys/net shows depends on the thread that opens it.
        self.enter(|| {
            std::fs::write(format!("/proc/sys/{name}"), value)
                .unwrap_or_else(|error| panic!("cannot set {name} to {value}: {error}"));
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what runs of dead processes left behind.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let maker = name.strip_prefix(MARK).and_then(|rest| rest.split('-').nth(1));
        if maker.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// Never panics: it runs while tests unwind.
fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids.map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).split_whitespace().filter_map(|pid| pid.parse().ok())
    {
        let pid = Pid::from_raw(pid);
        // It may be gone by now, which is what is wanted.
        kill(pid, Signal::SIGKILL).ok();
    }
    match Command::new("ip").args(["netns", "del", name]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!("namespace {name} stays: {}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => eprintln!("namespace {name} stays: cannot start ip: {error}"),
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    Command::new("ip").args(words).output_of().ok();
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
