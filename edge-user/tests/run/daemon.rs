//! A daemon that answers as the real one does, and ways to run `edge` against it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use edge_user::wire::admin::{
    AttachEvent, AttachRequest, Attached, Container, CreateTokenRequest, CreateTokenResponse,
    DownEvent, DownRequest, EndMemberRequest, EndMemberResponse, ForgetHostRequest,
    ForgetHostResponse, GatherEvent, GatherRequest, Host, ListContainersRequest,
    ListContainersResponse, ListHostsRequest, ListHostsResponse, ListTunnelsRequest,
    ListTunnelsResponse, Resume, StatusRequest, StatusResponse, TraceEvent, TraceRequest, Tunnel,
    Variable,
    admin_server::{Admin, AdminServer},
    attach_event::Event,
};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::mpsc, sync::oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

pub(crate) const EDGE: &str = env!("CARGO_BIN_EXE_edge");
/// For a busy machine; nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon; gone with the guard.
pub(crate) struct Daemon {
    dir: TempDir,
    calls: Arc<Mutex<Calls>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Calls {
    attached: Vec<AttachRequest>,
    /// The containers are nobody's any more.
    forgotten: bool,
    open: Vec<mpsc::Sender<Result<AttachEvent, Status>>>,
}

struct Script(Arc<Mutex<Calls>>);

impl Daemon {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut daemon = Self { dir, calls: Arc::default(), stop: None, thread: None };
        daemon.start_again();
        daemon
    }

    /// Starts another one in the directory of one that has stopped.
    pub(crate) fn start_again(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let (listening, ready) = std::sync::mpsc::channel();
        let (path, script) = (self.dir.path().join("edge.sock"), Script(Arc::clone(&self.calls)));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let sockets = UnixListenerStream::new(UnixListener::bind(path).expect("a socket"));
                listening.send(()).expect("a test that waits");
                let served = Server::builder()
                    .add_service(AdminServer::new(script))
                    .serve_with_incoming(sockets);
                // As abrupt as a kill: open calls break off.
                tokio::select! { _ = served => {}, _ = stopped => {} }
            });
        });
        ready.recv().expect("a daemon");
        (self.stop, self.thread) = (Some(stop), Some(thread));
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    /// `edge` with these arguments, told which daemon is meant.
    pub(crate) fn edge(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(EDGE);
        command.arg("--run-dir").arg(self.run_dir()).args(arguments);
        command
    }

    /// What a shell script prints and ends with inside a container.
    pub(crate) fn inside(&self, script: &str) -> Ran {
        Ran::from(self.edge(&["run", "--", "sh", "-c", script]).output().expect("edge"))
    }

    /// The same, started by a script on the outside that has a mount namespace of its own;
    /// `"$@"` is the command.
    pub(crate) fn inside_of(&self, outside: &str, script: &str) -> Ran {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", outside, "sh", EDGE, "--run-dir"]);
        command.arg(self.run_dir()).args(["run", "--", "sh", "-c", script]);
        Ran::from(command.output().expect("unshare"))
    }

    pub(crate) fn requests(&self) -> Vec<AttachRequest> {
        self.calls.lock().expect("calls").attached.clone()
    }

    /// How many containers hold their call open.
    pub(crate) fn attached(&self) -> usize {
        let calls = self.calls.lock().expect("calls");
        calls.open.iter().filter(|call| !call.is_closed()).count()
    }

    /// Ends the daemon, leaving its directory and what it knows.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a daemon that ended well");
        }
        std::fs::remove_file(self.dir.path().join("edge.sock")).expect("its socket");
    }

    /// Lets it know of no container any more.
    pub(crate) fn forget(&self) {
        self.calls.lock().expect("calls").forgotten = true;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            thread.join().ok();
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Waits for something to become true.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The machine's processes whose command line ends with this argument.
pub(crate) fn processes(last_argument: &str) -> Vec<PathBuf> {
    let ending = format!("\0{last_argument}\0");
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::read(path.join("cmdline")).is_ok_and(|line| line.ends_with(ending.as_bytes()))
        })
        .collect()
}

pub(crate) fn tunnel() -> Tunnel {
    Tunnel {
        id: "tu-1".into(),
        workspace: "main".into(),
        container: "box".into(),
        port: 8000,
        url: "https://abc.r1.localhost".into(),
        tls: "abc.r1.localhost:443".into(),
        tcp: Some("localhost:20000".into()),
        path: "tcx".into(),
        ..Tunnel::default()
    }
}

pub(crate) fn container() -> Container {
    Container {
        id: "co-1".into(),
        name: "box".into(),
        workspace: "main".into(),
        host: "here".into(),
        netns: "/run/netns/box".into(),
        ipv4: "100.64.0.2".into(),
        i6pn: "fdaa::2".into(),
        egress: "nat".into(),
        private: true,
        ..Container::default()
    }
}

#[tonic::async_trait]
impl Admin for Script {
    type AttachStream = ReceiverStream<Result<AttachEvent, Status>>;

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let request = request.into_inner();
        if request.name == "taken" {
            return Err(Status::already_exists("taken: the name is in use; choose another"));
        }
        if let Some(Resume { container, token }) = &request.resume {
            let mut calls = self.0.lock().expect("calls");
            if calls.forgotten || container != "co-1" || token != "secret" {
                calls.attached.push(request);
                return Err(Status::not_found("container co-1: not known; start it again"));
            }
        }
        let (events, stream) = mpsc::channel(8);
        let attached = Attached {
            container: Some(Container { pid: request.pid, ..container() }),
            environment: vec![Variable { name: "MODAL_TASK_ID".into(), value: "ta-1".into() }],
            resolv_conf: "nameserver 169.254.20.10\n".into(),
            hidden: Vec::new(),
            token: "secret".into(),
        };
        for event in [Event::Attached(attached), Event::Tunnel(tunnel())] {
            let sent = events.send(Ok(AttachEvent { event: Some(event) })).await;
            sent.map_err(|gone| Status::internal(gone.to_string()))?;
        }
        let mut calls = self.0.lock().expect("calls");
        calls.attached.push(request);
        calls.open.push(events);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_containers(
        &self,
        _request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        Ok(Response::new(ListContainersResponse { containers: vec![container()] }))
    }

    async fn list_tunnels(
        &self,
        _request: Request<ListTunnelsRequest>,
    ) -> Result<Response<ListTunnelsResponse>, Status> {
        Ok(Response::new(ListTunnelsResponse { tunnels: vec![tunnel()] }))
    }

    type GatherStream = ReceiverStream<Result<GatherEvent, Status>>;

    async fn gather(
        &self,
        _request: Request<GatherRequest>,
    ) -> Result<Response<Self::GatherStream>, Status> {
        Err(Status::unimplemented("this daemon plays its part only"))
    }

    type TraceStream = ReceiverStream<Result<TraceEvent, Status>>;

    async fn trace(
        &self,
        _request: Request<TraceRequest>,
    ) -> Result<Response<Self::TraceStream>, Status> {
        Err(Status::unimplemented("this daemon plays its part only"))
    }

    async fn end_member(
        &self,
        _request: Request<EndMemberRequest>,
    ) -> Result<Response<EndMemberResponse>, Status> {
        Err(Status::unimplemented("this daemon plays its part only"))
    }

    type DownStream = ReceiverStream<Result<DownEvent, Status>>;

    async fn down(
        &self,
        _request: Request<DownRequest>,
    ) -> Result<Response<Self::DownStream>, Status> {
        Err(Status::unimplemented("this daemon plays its part only"))
    }

    async fn list_hosts(
        &self,
        _request: Request<ListHostsRequest>,
    ) -> Result<Response<ListHostsResponse>, Status> {
        let gateway = Host { id: 1, role: "gateway".into(), alive: true, ..Host::default() };
        Ok(Response::new(ListHostsResponse { hosts: vec![gateway] }))
    }

    async fn forget_host(
        &self,
        request: Request<ForgetHostRequest>,
    ) -> Result<Response<ForgetHostResponse>, Status> {
        match request.into_inner().id {
            7 => Ok(Response::new(ForgetHostResponse {})),
            other => Err(Status::not_found(format!("host {other}: there is none; list them"))),
        }
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let CreateTokenRequest { ttl, uses } = request.into_inner();
        let token = format!("edge-join-{ttl}-{uses}");
        Ok(Response::new(CreateTokenResponse { token }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let ca = "-----BEGIN CERTIFICATE-----\n".into();
        Ok(Response::new(StatusResponse {
            ca,
            domain: "r1.localhost".into(),
            ..Default::default()
        }))
    }
}
