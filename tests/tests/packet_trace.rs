//! The traced programs: they decide as the plain ones do, and tell exactly what they are asked for.

use edge_common::{
    address::Address,
    trace::{Event, Filter},
    verdict::{Hook, Verdict},
};
use edge_user::datapath::{Heard, Trace};
use tests::packets::{
    container, from_hosts,
    kernel::Kernel,
    plan::syn,
    run,
    scene::{self, CLIENT, INNER, PUBLIC, Region, SENDER, endpoint},
    to_hosts, uplink,
};

/// Bytes of `struct __sk_buff`.
const SKB_LEN: usize = 192;
/// More than the ring buffer has room for.
const MANY: u32 = 20_000;
/// Nobody's.
const NOT_OURS: &str = "192.0.2.10:9";

const ALL: Filter = Filter {
    until: 0,
    verdicts: Filter::ALL_VERDICTS,
    addresses: [Address { words: [0; 4] }; 2],
    ifindex: 0,
    sample: 1,
};

fn listen(kernel: &Kernel, filter: Filter) -> Trace {
    kernel.datapath.trace(filter).expect("the kernel takes the traced programs")
}

/// Everything that there is to hear.
fn hear(trace: &mut Trace) -> Heard {
    let mut all = Heard::default();
    loop {
        let heard = trace.hear().expect("the tables").expect("nobody else ends it");
        all.lost += heard.lost;
        if heard.events.is_empty() {
            return all;
        }
        all.events.extend(heard.events);
    }
}

fn run_many(kernel: &Kernel, to: &str, repeat: u32) {
    let (frame, context) = (syn(CLIENT, to, &[]).build(), [0; SKB_LEN]);
    let run = kernel.datapath.test_run(Hook::TcUplink, &frame, Some(&context), repeat);
    run.expect("a test run");
}

#[test]
fn they_decide_as_ever() {
    let kernel = Kernel::load("traced");
    let _trace = listen(&kernel, ALL);
    run::uplink(&kernel, &scene::rows(), &uplink::all());
    run::container(&kernel, &scene::rows(), &container::all());
    for region in [Region::Geneve, Region::Keyed, Region::Direct] {
        let (rows, kernel) = (scene::rows_in(region), Kernel::load_in("traced-hosts", region));
        let _trace = listen(&kernel, ALL);
        run::container(&kernel, &rows, &to_hosts::from_containers(region));
        run::uplink(&kernel, &rows, &to_hosts::from_clients(region));
        run::uplink(&kernel, &rows, &from_hosts::all(region));
    }
}

#[test]
fn what_is_told_is_what_was_decided() {
    let kernel = Kernel::load("told");
    let mut trace = listen(&kernel, ALL);
    let frame = syn(CLIENT, PUBLIC, &[]).build();
    kernel.datapath.test_run(Hook::XdpUplink, &frame, None, 1).expect("a test run");
    let heard = hear(&mut trace);
    let [event] = heard.events[..] else { panic!("{heard:?}") };
    let expected = Event {
        time: event.time,
        ifindex: event.ifindex,
        source: endpoint(CLIENT),
        destination: endpoint(PUBLIC),
        beyond: endpoint(INNER),
        beyond_of: Event::OF_DESTINATION,
        hook: Hook::XdpUplink as u32,
        verdict: Verdict::Tunnel as u32,
        protocol: 6,
        out: SENDER,
        bytes: u32::try_from(frame.len()).expect("a short frame"),
        ..Event::default()
    };
    assert_eq!(event, expected);
    assert!(event.time != 0 && event.time < edge_user::datapath::now());
}

#[test]
fn each_decision_is_told_or_counted_as_lost() {
    let kernel = Kernel::load("lost");
    let mut trace = listen(&kernel, ALL);
    run_many(&kernel, NOT_OURS, MANY);
    let heard = hear(&mut trace);
    assert!(heard.lost > 0, "there was room for {}", heard.events.len());
    assert_eq!(heard.events.len() as u64 + heard.lost, u64::from(MANY));
    assert!(heard.events.iter().all(|event| event.verdict == Verdict::NotOurs as u32));
    // What is lost is said once.
    run_many(&kernel, NOT_OURS, 3);
    let heard = hear(&mut trace);
    assert_eq!((heard.events.len(), heard.lost), (3, 0));
}

#[test]
fn a_sample_is_taken_of_what_passes_the_filter() {
    let kernel = Kernel::load("sample");
    let only = 1 << Verdict::NotOurs as u32;
    for filter in [Filter { sample: 10, ..ALL }, Filter { sample: 10, verdicts: only, ..ALL }] {
        let mut trace = listen(&kernel, filter);
        run_many(&kernel, NOT_OURS, MANY);
        if !filter.is_open() {
            let frame = syn(CLIENT, PUBLIC, &[]).build();
            kernel.datapath.test_run(Hook::XdpUplink, &frame, None, 1).expect("a test run");
        }
        let told = hear(&mut trace).events.len();
        // The kernel may go on on another CPU, which has a turn of its own.
        assert!((1_990..=2_000).contains(&told), "{told}");
    }
    let refusals = Filter { verdicts: 1 << Verdict::TooBig as u32, ..ALL };
    let mut trace = listen(&kernel, refusals);
    run_many(&kernel, NOT_OURS, 100);
    assert_eq!(hear(&mut trace).events, []);
}

#[test]
fn one_listens_at_a_time_and_whoever_is_ended_hears_no_more() {
    let kernel = Kernel::load("one");
    let mut first = listen(&kernel, ALL);
    let second = kernel.datapath.trace(ALL).err().expect("there is one already");
    assert!(second.to_string().contains("listens already"), "{second}");
    kernel.datapath.end_trace();
    assert!(first.hear().expect("the tables").is_none());
    let mut next = listen(&kernel, ALL);
    // It is not this one's to end any more.
    drop(first);
    run_many(&kernel, NOT_OURS, 5);
    assert_eq!(hear(&mut next).events.len(), 5);
}
