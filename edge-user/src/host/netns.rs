//! Network namespaces: holding one, and working inside it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use super::sys;

/// A network namespace, alive at least as long as this handle.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// Makes a new, empty namespace.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Self { file: File::open("/proc/thread-self/ns/net")? })
        })
    }

    /// The one that this process is in.
    pub fn current() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/ns/net")? })
    }

    /// The one that a process is in.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The one that is mounted at a path.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let is_namespace = fstatfs(&file)?.filesystem_type() == NSFS_MAGIC;
        if is_namespace && sys::namespace_kind(file.as_fd())? == libc::CLONE_NEWNET {
            return Ok(Self { file });
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a network namespace; name one made by `ip netns add` or /proc/PID/ns/net",
        ))
    }

    /// Keeps it alive without any process, by a mount at a path, as `ip netns` does.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        File::create(path)?;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let nothing = None::<&str>;
        mount(Some(own.as_str()), path, nothing, MsFlags::MS_BIND, nothing)?;
        Ok(())
    }

    /// Undoes [`NetNs::pin`]; fine if there is nothing.
    pub fn unpin(path: &Path) -> io::Result<()> {
        match umount2(path, MntFlags::MNT_DETACH) {
            // A file that nothing is mounted on, or none.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Tells this namespace from all others that live.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Runs a job in the namespace, on a thread of its own, so that no other work of this process
    /// can ever find itself there.
    pub fn run<R: Send>(&self, job: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            job()
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn on_thread<R: Send>(job: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("edge-netns".into())
            .spawn_scoped(scope, job)?
            .join()
            .unwrap_or_else(|_panic| Err(io::Error::other("the namespace thread panicked")))
    })
}

/// Makes sockets in a namespace, on one thread that stays there, and some of them ahead of time:
/// a dial then neither starts a thread nor waits for one.
#[derive(Debug)]
pub struct SocketFactory {
    orders: mpsc::Sender<Order>,
    stock: Arc<Mutex<Vec<Socket>>>,
}

#[derive(Debug)]
enum Order {
    /// Fill the stock.
    Stock,
    /// One that is waited for; fill the stock, too.
    One(oneshot::Sender<io::Result<Socket>>),
}

/// Sockets made ahead of time.
const STOCK: usize = 32;
/// With so many left more are ordered.
const LOW: usize = STOCK - 4;

impl SocketFactory {
    /// Starts the thread; it ends with the factory.
    pub fn start(namespace: &NetNs) -> io::Result<Self> {
        let file = namespace.file.try_clone()?;
        let (orders, inbox) = mpsc::channel::<Order>();
        let (ready, entered) = mpsc::channel();
        let stock = Arc::new(Mutex::new(Vec::with_capacity(STOCK)));
        let made = stock.clone();
        std::thread::Builder::new().name("edge-sockets".into()).spawn(move || {
            let inside = setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            let stay = inside.is_ok();
            if stay {
                fill(&made);
            }
            if ready.send(inside).is_err() || !stay {
                return;
            }
            for order in inbox {
                if let Order::One(reply) = order {
                    // A caller that gave up meanwhile drops its socket.
                    let _unclaimed = reply.send(tcp_socket());
                }
                fill(&made);
            }
        })?;
        entered.recv().map_err(|error| io::Error::other(error.to_string()))??;
        Ok(Self { orders, stock })
    }

    /// A non-blocking IPv4 TCP socket in the namespace; its route says what source it takes.
    pub async fn tcp(&self) -> io::Result<Socket> {
        let gone = || io::Error::other("the service namespace's thread is gone");
        let (socket, left) = {
            let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
            (stock.pop(), stock.len())
        };
        if let Some(socket) = socket {
            if left == LOW {
                self.orders.send(Order::Stock).map_err(|_returned| gone())?;
            }
            return Ok(socket);
        }
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::One(reply)).map_err(|_returned| gone())?;
        answer.await.map_err(|_closed| gone())?
    }
}

/// Adds what is missing. What cannot be made now is reported to who orders one and waits.
fn fill(stock: &Mutex<Vec<Socket>>) {
    loop {
        let missing = STOCK > stock.lock().unwrap_or_else(PoisonError::into_inner).len();
        let Some(Ok(socket)) = missing.then(tcp_socket) else { return };
        stock.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    }
}

fn tcp_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        for path in ["/proc/self/status", "/proc/self/ns/mnt"] {
            let error = NetNs::at(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains("ip netns add"), "{path}: {error}");
        }
    }
}
