//! Whose a packet is, and how it travels: said by hand for one of each kind. That the programs in
//! the kernel count so, all packet tables show.

use edge_common::{
    account::{Lane, NOBODY},
    decide,
    native::Frame,
    verdict::{Hook, Verdict},
};
use edge_user::datapath::{Datapath, Whose};
use tests::packets::{
    kernel::Kernel,
    plan::{Plan, tcp},
    scene::{
        self, ACCOUNTS, BY_GATEWAY, CLIENT, FAR_CONTAINER, FAR_INNER, FAR_PUBLIC, OWN_PORT,
        OWN_PORT_V6, PUBLIC, RELAY, RELAYED, Region, SENDER,
    },
};

/// A container of workspace 2, and one of workspace 1.
const STRANGER: &str = "[fdaa:0:2:5:1::5]:45000";
const OTHER: &str = "[fdaa:0:1:5:1::4]:80";

#[test]
fn a_packet_is_its_senders_or_else_its_receivers() {
    let [one, two, far] = ACCOUNTS;
    for (region, lane) in [
        (Region::Alone, None),
        (Region::Geneve, Some(Lane::Encapsulated)),
        (Region::Direct, Some(Lane::Direct)),
    ] {
        let rows = scene::rows_in(region);
        let mut out = vec![
            (tcp(OWN_PORT_V6, OTHER), one, Lane::Local),
            (tcp(STRANGER, OWN_PORT_V6), two, Lane::Local),
            (tcp(OWN_PORT, CLIENT), one, Lane::Local),
            (tcp(OWN_PORT, "169.254.20.10:80"), one, Lane::Local),
            (tcp("169.254.20.10:80", "100.64.0.5:45000"), two, Lane::Local),
            (tcp(RELAY, RELAYED), one, Lane::Local),
            (tcp("100.64.0.77:1", CLIENT), NOBODY, Lane::Local),
        ];
        let mut into = vec![
            (tcp(CLIENT, PUBLIC), one, Lane::Local),
            (tcp("127.0.0.1:1", PUBLIC), one, Lane::Local),
            (tcp(CLIENT, "192.0.2.10:22"), NOBODY, Lane::Local),
        ];
        if let Some(lane) = lane {
            out.extend([
                (tcp(OWN_PORT_V6, FAR_CONTAINER), one, lane),
                (tcp(BY_GATEWAY, CLIENT), one, lane),
                (tcp(RELAY, FAR_INNER), far, lane),
                (tcp(OWN_PORT_V6, "[fdaa:0:1:5:9::9]:80"), one, lane),
            ]);
            into.push((tcp(CLIENT, FAR_PUBLIC[0]), far, lane));
        }
        if region == Region::Direct {
            into.extend([
                (tcp(FAR_CONTAINER, OWN_PORT_V6), one, Lane::Direct),
                (tcp(FAR_CONTAINER, STRANGER), two, Lane::Direct),
                (tcp(FAR_INNER, CLIENT), far, Lane::Direct),
                (tcp(FAR_CONTAINER, "[fdaa:0:1:5:1::77]:80"), NOBODY, Lane::Direct),
            ]);
        }
        let said = |plan: &Plan, expected: (u32, Lane), outcome: decide::Outcome| {
            let (account, lane) = expected;
            assert_eq!(outcome.place, lane.of(account), "{region:?}: {plan:?}: {outcome:?}");
        };
        for (plan, account, lane) in out {
            let outcome = decide::container(&mut Frame(plan.build()), &rows, SENDER);
            said(&plan, (account, lane), outcome);
        }
        for (plan, account, lane) in into {
            let outcome = decide::uplink(&mut Frame(plan.build()), &rows, SENDER);
            said(&plan, (account, lane), outcome);
        }
    }
}

#[test]
fn the_next_daemon_counts_on_where_rows_say_whose_it_is() {
    let kernel = Kernel::load("accounts");
    let frame = tcp(OWN_PORT_V6, OTHER).build();
    let run = |datapath: &Datapath| {
        let context = [0; 192];
        datapath.test_run(Hook::TcContainer, &frame, Some(&context), 1).expect("a test run");
    };
    let counted = |datapath: &Datapath| -> Vec<(Whose, u64)> {
        let tallies = datapath.tallies().expect("counters").into_iter();
        let i6pn = tallies.filter(|tally| tally.verdict == Verdict::I6pn);
        i6pn.map(|tally| (tally.whose, tally.count.packets)).collect()
    };
    run(&kernel.datapath);
    let one = Whose::Workspace("workspace-1".to_owned());
    assert_eq!(counted(&kernel.datapath), [(one.clone(), 1)]);

    let next = kernel.successor();
    assert_eq!(counted(&next), [(Whose::Forgotten, 1)], "who it is was not asked for yet");
    let [first, _, third] = ACCOUNTS;
    // Tunnels' rows do not say whose they are, but whoever writes one again reads it.
    assert_eq!(next.account(3, "workspace-3", Some(third)).expect("an account"), third);
    let fresh = next.account(4, "workspace-4", None).expect("an account");
    assert!(!ACCOUNTS.contains(&fresh), "{fresh} is another's");
    assert_eq!(next.account(1, "workspace-1", None).expect("an account"), first);
    run(&next);
    assert_eq!(counted(&next), [(one, 2)]);
    let sum = next.verdicts().expect("counters").into_iter();
    let sum = sum.filter(|(_, verdict, _)| *verdict == Verdict::I6pn);
    assert_eq!(sum.map(|(.., count)| count.packets).sum::<u64>(), 2);
}
