//! Tests with real sockets on the loopback, and resolvers that behave as the name asks.

use std::sync::Mutex;

use hickory_proto::{
    op::{Edns, Message, MessageType, Query},
    rr::RData,
};
use tokio::task::JoinHandle;

use super::*;
use crate::region::tunnels::fake;

struct OneCaller {
    container: Arc<Container>,
    egress: bool,
    private: bool,
}

impl Callers for OneCaller {
    fn by_address(&self, address: IpAddr) -> Option<Arc<Container>> {
        (address == Ipv4Addr::LOCALHOST).then(|| self.container.clone())
    }

    fn may_ask_outside(&self, _address: IpAddr) -> bool {
        self.egress
    }

    fn is_private(&self, _address: IpAddr) -> bool {
        self.private
    }

    fn peer(&self, workspace: &str, name: &str) -> Peer {
        match (workspace, name) {
            ("main", "db") => Peer::At(DB),
            ("main", "elsewhere") => Peer::Unknown,
            _ => Peer::Nobody,
        }
    }
}

/// A resolver on UDP and TCP.
struct Resolver {
    asked: Mutex<Vec<Vec<u8>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Resolver {
    async fn listen(address: SocketAddr) -> (Arc<Self>, u16) {
        let tcp = TcpListener::bind(address).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((address.ip(), port)).await.unwrap();
        let resolver = Arc::new(Self { asked: Mutex::default(), tasks: Mutex::default() });
        let this = resolver.clone();
        let over_udp = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                for reply in this.replies(&buffer[..length], false) {
                    udp.send_to(&reply, peer).await.unwrap();
                }
            }
        });
        let this = resolver.clone();
        let over_tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut query = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut query).await.unwrap();
                for reply in this.replies(&query, true) {
                    stream.write_all(&upstream::framed(&reply).unwrap()).await.unwrap();
                }
            }
        });
        resolver.tasks.lock().unwrap().extend([over_udp, over_tcp]);
        (resolver, port)
    }

    fn replies(&self, query: &[u8], tcp: bool) -> Vec<Vec<u8>> {
        self.asked.lock().unwrap().push(query.to_vec());
        let name = Message::from_vec(query).unwrap().queries[0].name().to_ascii();
        let mut reply = query.to_vec();
        reply[2] |= 0x80;
        match name.as_str() {
            "silent.example." => return Vec::new(),
            "broken.example." => reply[3] |= 2,
            "big.example." if !tcp => reply[2] |= 0x02,
            "forged.example." => {
                let (mut other_id, mut other_name) = (reply.clone(), reply.clone());
                other_id[0] ^= 1;
                other_name[13] ^= 1;
                return vec![vec![1, 2, 3], query.to_vec(), other_id, other_name, reply];
            }
            _ => {}
        }
        vec![reply]
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

struct Served {
    address: SocketAddr,
    resolver: Arc<Resolver>,
    resolv_conf: tempfile::NamedTempFile,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const DB: Ipv6Addr = Ipv6Addr::new(0xfdaa, 1, 2, 3, 4, 5, 6, 7);
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

async fn serve_one() -> Served {
    serve_domain("edge.localhost", true).await
}

async fn serve_domain(domain: &str, egress: bool) -> Served {
    serve_container(domain, egress, true).await
}

async fn serve_container(domain: &str, egress: bool, private: bool) -> Served {
    // Nothing listens on the first resolver's port.
    let (resolver, port) = Resolver::listen("127.0.0.3:0".parse().unwrap()).await;
    let resolv_conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(resolv_conf.path(), "nameserver 127.0.0.2\nnameserver 127.0.0.3\n").unwrap();
    let tcp = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], tcp.local_addr().unwrap().port()));
    let udp = UdpSocket::bind(("0.0.0.0", address.port())).await.unwrap();
    let upstreams = Upstreams::new(resolv_conf.path().to_owned(), port);
    let locate = |name: &str| name.starts_with("live.").then(|| vec![PUBLIC]);
    let callers = Arc::new(OneCaller { container: fake::container(1), egress, private });
    let zones = Zones { domain: domain.to_owned(), suffix: "edge.internal".to_owned() };
    let never = std::future::pending();
    let task = tokio::spawn(serve_with(udp, tcp, callers, locate, zones, upstreams, never));
    Served { address, resolver, resolv_conf, task }
}

impl Served {
    async fn raw(&self, from: [u8; 4], query: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((IpAddr::from(from), 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(query).await.unwrap();
        let mut reply = vec![0; 4096];
        let received = timeout(Duration::from_millis(700), socket.recv(&mut reply)).await.ok()?;
        reply.truncate(received.unwrap());
        Some(reply)
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let reply = self.raw([127, 0, 0, 1], &query(name, kind).to_vec().unwrap()).await.unwrap();
        Message::from_vec(&reply).unwrap()
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let answers = message.answers.iter();
    answers
        .map(|record| match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn names_of_the_region_are_answered_here() {
    let served = serve_one().await;
    let own = IpAddr::from(fake::container(1).i6pn);
    let (v4, v6) = (IpAddr::from([127, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST));
    for (name, kind, code, found) in [
        ("i6pn.modal.local.", RecordType::AAAA, ResponseCode::NoError, vec![own]),
        ("I6PN.Modal.Local.", RecordType::AAAA, ResponseCode::NoError, vec![own]),
        ("i6pn.modal.local.", RecordType::A, ResponseCode::NoError, vec![]),
        ("other.modal.local.", RecordType::A, ResponseCode::NXDomain, vec![]),
        ("live.edge.localhost.", RecordType::A, ResponseCode::NoError, vec![PUBLIC]),
        ("LIVE.edge.localhost.", RecordType::A, ResponseCode::NoError, vec![PUBLIC]),
        ("live.edge.localhost.", RecordType::AAAA, ResponseCode::NoError, vec![]),
        ("live.edge.localhost.", RecordType::HTTPS, ResponseCode::NoError, vec![]),
        ("dead.edge.localhost.", RecordType::A, ResponseCode::NXDomain, vec![]),
        ("edge.localhost.", RecordType::A, ResponseCode::NoError, vec![]),
        ("localhost.", RecordType::A, ResponseCode::NoError, vec![v4]),
        ("anything.localhost.", RecordType::AAAA, ResponseCode::NoError, vec![v6]),
    ] {
        let reply = served.ask(name, kind).await;
        assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
        assert_eq!(addresses(&reply), found, "{name} {kind}");
        assert_eq!(reply.queries[0].name().to_ascii(), name, "the case of the question stays");
        assert!(reply.edns.is_none(), "the query had none");
    }
    assert!(served.resolver.asked.lock().unwrap().is_empty(), "none of these left the machine");

    let mut with_edns = query("i6pn.modal.local.", RecordType::AAAA);
    with_edns.set_edns(Edns::new());
    let reply = served.raw([127, 0, 0, 1], &with_edns.to_vec().unwrap()).await.unwrap();
    assert_eq!(Message::from_vec(&reply).unwrap().edns.unwrap().max_payload(), 1232);
}

#[tokio::test]
async fn under_a_public_domain_only_live_names_are_answered_here() {
    let served = serve_domain("r5.example", true).await;
    for (name, forwarded) in
        [("live.r5.example.", false), ("dead.r5.example.", true), ("live.r5.other.", true)]
    {
        served.resolver.asked.lock().unwrap().clear();
        let reply = served.ask(name, RecordType::A).await;
        assert_eq!(served.resolver.asked.lock().unwrap().len(), usize::from(forwarded), "{name}");
        assert_eq!(addresses(&reply), if forwarded { vec![] } else { vec![PUBLIC] }, "{name}");
    }
}

#[tokio::test]
async fn other_names_pass_through_unchanged() {
    let served = serve_one().await;
    let mut asked = query("Mixed.Example.", RecordType::Unknown(65280));
    let mut edns = Edns::new();
    edns.set_max_payload(4000).set_dnssec_ok(true);
    asked.set_edns(edns);
    asked.metadata.checking_disabled = true;
    let asked = asked.to_vec().unwrap();
    let reply = served.raw([127, 0, 0, 1], &asked).await.unwrap();
    let upstream = served.resolver.asked.lock().unwrap()[0].clone();
    assert_eq!(upstream[2..], asked[2..], "the query but for its id");
    assert_eq!(reply[..2], asked[..2], "the asker's id comes back");
    assert_eq!(reply[4..], asked[4..]);

    served.raw([127, 0, 0, 1], &asked).await.unwrap();
    let again = served.resolver.asked.lock().unwrap()[1].clone();
    assert!(again[..2] != upstream[..2] || again[..2] != asked[..2], "ids are random");
}

#[tokio::test]
async fn truncation_leads_to_tcp() {
    let served = serve_one().await;
    assert!(served.ask("big.example.", RecordType::TXT).await.metadata.truncation);
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    // Two queries over one connection.
    for _ in 0..2 {
        let asked = query("big.example.", RecordType::TXT).to_vec().unwrap();
        stream.write_all(&upstream::framed(&asked).unwrap()).await.unwrap();
        let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut reply).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert!(!reply.metadata.truncation && reply.metadata.message_type == MessageType::Response);
    }
}

#[tokio::test]
async fn what_is_not_the_answer_is_passed_over() {
    let served = serve_one().await;
    let reply = served.ask("forged.example.", RecordType::A).await;
    assert_eq!(reply.queries[0].name().to_ascii(), "forged.example.");
    let broken = served.ask("broken.example.", RecordType::A).await;
    assert_eq!(broken.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn garbage_is_ignored_and_strangers_are_refused() {
    let served = serve_one().await;
    let asked = query("i6pn.modal.local.", RecordType::AAAA).to_vec().unwrap();
    let mut reply = asked.clone();
    reply[2] |= 0x80;
    for garbage in [&[][..], &[0; 11], &[0xff; 40], &asked[..20], &reply] {
        assert_eq!(served.raw([127, 0, 0, 1], garbage).await, None, "{garbage:?}");
    }
    for (from, kind, change, code) in [
        ([127, 0, 0, 9], RecordType::AAAA, 0, ResponseCode::Refused),
        ([127, 0, 0, 1], RecordType::AAAA, 0x20, ResponseCode::NotImp),
        ([127, 0, 0, 1], RecordType::AXFR, 0, ResponseCode::Refused),
    ] {
        let mut asked = query("example.", kind).to_vec().unwrap();
        asked[2] |= change;
        let reply = served.raw(from, &asked).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, code);
    }
    assert!(served.resolver.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn resolvers_follow_the_file() {
    let served = serve_one().await;
    assert_eq!(
        served.ask("a.example.", RecordType::A).await.metadata.response_code,
        ResponseCode::NoError
    );
    std::fs::write(served.resolv_conf.path(), "# none\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(
        served.ask("a.example.", RecordType::A).await.metadata.response_code,
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn silence_ends_in_servfail_after_five_seconds() {
    let served = serve_one().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked = query("silent.example.", RecordType::A).to_vec().unwrap();
    let begun = std::time::Instant::now();
    socket.send_to(&asked, served.address).await.unwrap();
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).await.unwrap();
    let reply = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let seconds = begun.elapsed().as_secs_f64();
    assert!((4.5..6.0).contains(&seconds), "{seconds}");
    let tries = served.resolver.asked.lock().unwrap().len();
    assert!(tries >= 2, "asked again within that time");
}

#[tokio::test]
async fn peers_of_the_own_workspace_have_names_and_no_others() {
    let served = serve_one().await;
    for (name, kind, code, found) in [
        ("db.main.edge.internal.", RecordType::AAAA, ResponseCode::NoError, vec![IpAddr::V6(DB)]),
        ("DB.Main.Edge.Internal.", RecordType::AAAA, ResponseCode::NoError, vec![IpAddr::V6(DB)]),
        ("db.main.edge.internal.", RecordType::A, ResponseCode::NoError, vec![]),
        ("main.edge.internal.", RecordType::AAAA, ResponseCode::NoError, vec![]),
        ("edge.internal.", RecordType::AAAA, ResponseCode::NoError, vec![]),
        ("web.main.edge.internal.", RecordType::AAAA, ResponseCode::NXDomain, vec![]),
        ("x.db.main.edge.internal.", RecordType::AAAA, ResponseCode::NXDomain, vec![]),
        ("db.other.edge.internal.", RecordType::AAAA, ResponseCode::NXDomain, vec![]),
        ("other.edge.internal.", RecordType::AAAA, ResponseCode::NXDomain, vec![]),
        ("elsewhere.main.edge.internal.", RecordType::AAAA, ResponseCode::ServFail, vec![]),
    ] {
        let reply = served.ask(name, kind).await;
        assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
        assert_eq!(addresses(&reply), found, "{name} {kind}");
    }
    assert!(served.resolver.asked.lock().unwrap().is_empty(), "none of these left the machine");
}

#[tokio::test]
async fn a_container_outside_the_private_network_has_no_name_in_it() {
    let served = serve_container("r5.example", true, false).await;
    for name in ["i6pn.modal.local.", "db.main.edge.internal."] {
        let reply = served.ask(name, RecordType::AAAA).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert!(served.resolver.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_container_without_egress_learns_local_names_and_asks_nobody() {
    let served = serve_domain("r5.example", false).await;
    for (name, code) in [
        ("i6pn.modal.local.", ResponseCode::NoError),
        ("live.r5.example.", ResponseCode::NoError),
        ("secret.r5.example.", ResponseCode::Refused),
        ("secret.example.", ResponseCode::Refused),
    ] {
        let reply = served.ask(name, RecordType::AAAA).await;
        assert_eq!(reply.metadata.response_code, code, "{name}");
    }
    assert!(served.resolver.asked.lock().unwrap().is_empty());
}
