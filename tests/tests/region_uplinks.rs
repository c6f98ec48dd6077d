//! Machines with several links to the underlay use all of them.

use tests::{
    i6pn,
    region::{Plan, Underlay},
    traffic::{Mirror, Transfers},
};

/// Flows enough that no hash sends all of them one way.
const FLOWS: usize = 32;

#[test]
fn flows_between_hosts_spread_over_both_links() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(2).links(2).up();
        let hosts = region.gateway().edge.hosts();
        assert!(hosts.iter().all(|host| host.underlay.len() == 2), "{underlay}: {hosts:?}");
        let [a, b] = [0, 1].map(|host| region.hosts[host].private(&format!("c{host}")));
        i6pn::ping(&a, &b);
        let _mirror = Mirror::serve(&b.netns, 8000);
        let sent = || ["un0", "un1"].map(|link| bytes_sent(&region.hosts[0].place.netns, link));
        let before = sent();
        let transfers = Transfers::start(&a.netns, (b.i6pn(), 8000).into(), FLOWS);
        transfers.wait_for_more();
        let sent: Vec<_> = sent().into_iter().zip(before).map(|(now, then)| now - then).collect();
        transfers.finish();
        // Each flow has moved more than that by now; with a fair hash a link without any flow is
        // as likely as 32 tosses of a coin that all show heads.
        assert!(sent.iter().all(|bytes| *bytes > 256 << 10), "{underlay}: bytes sent {sent:?}");
    }
}

fn bytes_sent(netns: &tests::netns::NetNs, link: &str) -> u64 {
    let printed = netns.ip(&["-json", "-statistics", "link", "show", "dev", link]);
    let shown: serde_json::Value = serde_json::from_str(&printed).expect("what ip prints");
    shown[0]["stats64"]["tx"]["bytes"]
        .as_u64()
        .unwrap_or_else(|| panic!("no bytes of {link}: {shown}"))
}
