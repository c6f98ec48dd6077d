//! Whose a container is after the daemon's end: its owner's, who proves it, and nobody else's.

use std::time::Duration;

use edge_user::wire::admin::{
    AttachEvent, AttachRequest, Attached, Resume, Tunnel, admin_client::AdminClient,
    attach_event::Event,
};
use tests::{
    edge::Edge,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Start as _, wait_for},
};
use tokio::runtime::Runtime;
use tonic::{Code, Status, Streaming, transport::Endpoint};

/// An owner that speaks to the daemon itself.
struct Owner {
    runtime: Runtime,
    events: Streaming<AttachEvent>,
    attached: Attached,
    tunnels: Vec<Tunnel>,
}

impl Owner {
    /// Calls Attach and waits for so many tunnels.
    fn call(edge: &Edge, request: AttachRequest, tunnels: usize) -> Result<Self, Status> {
        let runtime = Runtime::new().expect("a runtime");
        let socket = format!("unix://{}", edge.folder().join("run/edge.sock").display());
        let (events, attached, tunnels) = runtime.block_on(async {
            let channel = Endpoint::from_shared(socket).expect("a path").connect().await;
            let mut client = AdminClient::new(channel.expect("a daemon"));
            let mut events = client.attach(request).await?.into_inner();
            let Some(Event::Attached(attached)) = next(&mut events).await? else {
                panic!("the first event is another one");
            };
            let mut told = Vec::new();
            while told.len() < tunnels {
                match next(&mut events).await? {
                    Some(Event::Tunnel(tunnel)) => told.push(tunnel),
                    other => panic!("{other:?} where a tunnel was due"),
                }
            }
            Ok::<_, Status>((events, attached, told))
        })?;
        Ok(Self { runtime, events, attached, tunnels })
    }

    fn attach(edge: &Edge, netns: &NetNs) -> Self {
        let netns = netns.path().display().to_string();
        let request = AttachRequest { name: "mine".into(), netns, ..ports(&[8000]) };
        Self::call(edge, request, 1).expect("an attached container")
    }

    /// The claim that this owner has on the next daemon.
    fn resume(&self) -> Resume {
        let container = self.attached.container.clone().expect("a container").id;
        Resume { container, token: self.attached.token.clone() }
    }

    /// How the daemon ended the call.
    fn end(&mut self) -> Result<Option<Event>, Status> {
        self.runtime.block_on(next(&mut self.events))
    }
}

async fn next(events: &mut Streaming<AttachEvent>) -> Result<Option<Event>, Status> {
    let event = tokio::time::timeout(PATIENCE, events.message()).await;
    Ok(event.expect("an event in time")?.and_then(|event| event.event))
}

fn ports(raw: &[u32]) -> AttachRequest {
    AttachRequest { unencrypted_ports: raw.to_vec(), ..AttachRequest::default() }
}

fn claim(edge: &Edge, resume: Resume, tunnels: usize) -> Result<Owner, Status> {
    Owner::call(edge, AttachRequest { resume: Some(resume), ..ports(&[8000, 9000]) }, tunnels)
}

#[test]
fn an_owner_claims_its_container_from_the_next_daemon_and_nobody_else_does() {
    let mut lab = Lab::new(&["--lease", "10m"]);
    let netns = NetNs::new("mine");
    let owner = Owner::attach(&lab.edge, &netns);
    let resume = owner.resume();
    let stranger = Resume { token: "guessed".into(), ..resume.clone() };
    let refusal = |edge: &Edge, resume: &Resume| claim(edge, resume.clone(), 0).err().expect("no");
    assert_eq!(refusal(&lab.edge, &resume).code(), Code::AlreadyExists, "it has its owner");

    lab.edge.kill9();
    lab.edge.start();
    let no = refusal(&lab.edge, &stranger);
    assert_eq!(no.code(), Code::PermissionDenied);
    assert!(no.message().contains("container \"mine\" belongs to somebody else"), "{no}");
    let again = claim(&lab.edge, resume.clone(), 2).expect("its owner's");
    assert_eq!(again.attached, owner.attached);
    let [first, second] = &again.tunnels[..] else { panic!("{:?}", again.tunnels) };
    assert_eq!((&first.id, &first.tcp), (&owner.tunnels[0].id, &owner.tunnels[0].tcp));
    assert_eq!((second.port, lab.edge.tunnels().len()), (9000, 2), "a port that had no tunnel");
    assert_eq!(refusal(&lab.edge, &resume).code(), Code::AlreadyExists);

    // From here on the call is its life again.
    drop(again);
    wait_for("the container's end", PATIENCE, || lab.edge.containers().is_empty().then_some(()));
    assert_eq!(refusal(&lab.edge, &resume).code(), Code::NotFound);
}

#[test]
fn an_owner_is_told_whether_its_container_waits_for_it() {
    let mut lab = Lab::new(&["--lease", "10m"]);
    let netns = NetNs::new("mine");
    let mut owner = Owner::attach(&lab.edge, &netns);
    lab.edge.stop_for_restart();
    assert!(matches!(owner.end(), Ok(None)), "the container stays");
    lab.edge.start();
    let mut owner = claim(&lab.edge, owner.resume(), 2).expect("its owner's");
    lab.edge.stop();
    let told = owner.end().expect_err("the container has ended");
    assert_eq!(told.code(), Code::Aborted);
    assert!(told.message().contains("\"mine\""), "{told}");
}

#[test]
fn what_nobody_claims_ends_with_its_lease_and_is_nobody_elses_before() {
    let mut lab = Lab::new(&["--lease", "3s"]);
    let netns = NetNs::new("mine");
    let owner = Owner::attach(&lab.edge, &netns);
    lab.edge.kill9();
    drop(owner);
    lab.edge.start();
    let path = netns.path();
    let attach = |name: &str| {
        let mut command = lab.edge.command();
        command.args(["attach", "--name", name, "--netns"]).arg(&path).output_of().refused()
    };
    let refused = attach("mine");
    assert!(refused.stderr.contains("exists already"), "{refused}");
    let refused = attach("other");
    assert!(refused.stderr.contains("container \"mine\" already"), "{refused}");
    let patience = PATIENCE + Duration::from_secs(3);
    wait_for("the lease to end", patience, || lab.edge.containers().is_empty().then_some(()));
    assert!(lab.edge.tunnels().is_empty());
    let log = lab.edge.daemon().printed();
    assert!(log.contains("nobody claimed") && log.contains("name=\"mine\""), "{log}");
}
