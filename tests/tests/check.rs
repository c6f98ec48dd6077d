//! What `edge check` finds on a machine, with a daemon and without one.

use std::net::TcpListener;

use serde::Deserialize;
use tests::{
    edge,
    lab::Lab,
    netns::NetNs,
    process::{Output, Start as _},
    wire::Wire,
};

/// One element of `edge check --json`.
#[derive(Debug, Deserialize)]
struct Finding {
    name: String,
    state: String,
    found: String,
    meaning: String,
    remedy: Option<String>,
    fix: Option<Fix>,
}

/// What `--fix` did about it.
#[derive(Debug, Deserialize)]
struct Fix {
    outcome: String,
    did: Vec<String>,
    why: String,
}

/// A machine with a way out and nothing on it.
struct Machine {
    netns: NetNs,
    _internet: NetNs,
    _wire: Wire,
}

impl Machine {
    fn new() -> Self {
        let netns = NetNs::new("machine");
        let internet = NetNs::new("internet");
        let wire =
            Wire::new(&netns, "up0", &["192.0.2.10/24"], &internet, "eth0", &["192.0.2.20/24"]);
        netns.ip(&["route", "add", "default", "via", "192.0.2.20"]);
        Self { netns, _internet: internet, _wire: wire }
    }

    fn check(&self, words: &[&str]) -> Output {
        let mut command = self.netns.command(edge::program());
        command.args(["--instance", "test-no-daemon", "check"]).args(words);
        command.output_of()
    }

    fn findings(&self, words: &[&str]) -> Vec<Finding> {
        read(&self.check(&[&["--json"], words].concat()))
    }

    /// A second network card, so to speak: one queue, and a driver that can do little.
    fn tap(&self) {
        self.netns.ip(&["tuntap", "add", "tap0", "mode", "tap"]);
        self.netns.ip(&["address", "add", "198.51.100.10/24", "dev", "tap0"]);
    }

    fn ethtool(&self, words: &[&str]) -> Output {
        self.netns.command("ethtool").args(words).output_of()
    }

    /// To which processors the kernel spreads what an interface receives, as a mask.
    fn spread(&self, interface: &str) -> String {
        let file = format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus");
        self.netns.ip(&["netns", "exec", self.netns.name(), "cat", &file]).trim().to_owned()
    }

    fn nft(&self, script: &str) {
        self.netns.command("nft").arg(script).output_of().ok();
    }
}

#[track_caller]
fn read(output: &Output) -> Vec<Finding> {
    serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("not as agreed: {error}\n{output}"))
}

#[track_caller]
fn find<'f>(findings: &'f [Finding], name: &str) -> &'f Finding {
    let found = findings.iter().find(|finding| finding.name == name);
    found.unwrap_or_else(|| panic!("nothing about {name} among {findings:#?}"))
}

#[test]
fn a_clean_machine_has_nothing_broken() {
    let machine = Machine::new();
    let output = machine.check(&["--uplink", "auto"]).ok();
    assert!(output.stdout.contains("0 broken"), "{output}");

    let findings = machine.findings(&["--uplink", "auto"]);
    for name in ["kernel", "bpf-file-system", "privilege", "nftables", "tls-port", "raw-ports"] {
        let finding = find(&findings, name);
        assert_eq!(finding.state, "ok", "{finding:?}");
        assert_eq!(finding.remedy, None, "{finding:?}");
    }
    assert_eq!(find(&findings, "default-route").found, "by up0");
    assert_eq!(find(&findings, "daemon").found, "none answers");
}

#[test]
fn a_veth_uplink_gets_tcx_and_the_reason_is_said() {
    let machine = Machine::new();
    let findings = machine.findings(&[]);
    let uplink = find(&findings, "uplink:up0");
    assert!(uplink.found.starts_with("veth, MTU 1500, "), "{uplink:?}");
    let why = "edge takes tcx, because XDP would turn segmentation offload off on veth";
    assert!(uplink.meaning.starts_with(why), "{uplink:?}");
    assert_eq!(find(&findings, "offloads:up0").state, "ok");

    machine.netns.command("ethtool").args(["-K", "up0", "tso", "off"]).output_of().ok();
    let findings = machine.findings(&[]);
    let offloads = find(&findings, "offloads:up0");
    assert_eq!(offloads.state, "slower", "{offloads:?}");
    assert!(offloads.remedy.as_deref().is_some_and(|text| text.contains("tso on")));
}

#[test]
fn what_can_be_set_is_set_once_and_on_named_interfaces_only() {
    let machine = Machine::new();
    machine.tap();
    let _other = Wire::new(&machine.netns, "up1", &[], &machine._internet, "eth1", &[]);
    for interface in ["up0", "up1"] {
        machine.ethtool(&["-K", interface, "tso", "off", "rx-gro-list", "on"]).ok();
    }
    machine.netns.ip(&["link", "add", "un0", "type", "veth", "peer", "name", "un1"]);
    machine.netns.ip(&["address", "add", "203.0.113.10/24", "dev", "un0"]);
    machine.ethtool(&["-K", "un0", "tx-udp_tnl-segmentation", "off"]).ok();
    machine.ethtool(&["-K", "un0", "rx-udp-gro-forwarding", "on"]).ok();
    let named = ["--uplink", "up0", "--underlay", "un0", "--underlay", "tap0"];
    let mendable = ["offloads:up0", "queues:tap0", "offloads:un0", "tunnel-offloads:un0"];
    let found = machine.findings(&named);
    for name in mendable {
        assert_eq!(find(&found, name).state, "slower");
    }
    assert_eq!(machine.spread("tap0").trim_start_matches(['0', ',']), "", "nothing was asked");

    let fixed = machine.findings(&[&named[..], &["--fix"]].concat());
    let did = mendable.map(|name| {
        let finding = find(&fixed, name);
        assert_eq!((finding.state.as_str(), &finding.remedy), ("ok", &None), "{finding:?}");
        let fix = finding.fix.as_ref().unwrap_or_else(|| panic!("nothing done: {finding:?}"));
        assert_eq!(fix.outcome, "set", "{finding:?}");
        let before = find(&found, name);
        assert_eq!(Some(fix.did.join("; ")), before.remedy, "it does what it advises");
        assert_eq!(fix.why, before.meaning);
        fix.did.join("; ")
    });
    assert_eq!(did[0], "ethtool -K up0 sg on tso on rx-gro-list off");
    assert_ne!(machine.spread("tap0").trim_start_matches(['0', ',']), "");
    assert!(machine.ethtool(&["-k", "up0"]).stdout.contains("tx-tcp-segmentation: on"));
    assert!(machine.ethtool(&["-k", "up1"]).stdout.contains("tx-tcp-segmentation: off"));

    let again = machine.findings(&[&named[..], &["--fix"]].concat());
    for name in mendable {
        assert!(find(&again, name).fix.is_none(), "done already: {again:#?}");
    }
}

#[test]
fn what_cannot_be_set_is_said_with_the_reason() {
    let machine = Machine::new();
    machine.tap();
    let named = ["--underlay", "tap0", "--fix"];
    let fixed = machine.findings(&named);
    for (name, reason) in [
        ("tunnel-offloads:tap0", "tun cannot do it"),
        ("mtu:tap0", "every machine and switch of the underlay"),
    ] {
        let finding = find(&fixed, name);
        let fix = finding.fix.as_ref().unwrap_or_else(|| panic!("not said: {finding:?}"));
        assert_eq!((finding.state.as_str(), fix.outcome.as_str()), ("slower", "left"));
        assert!(fix.did.is_empty() && fix.why.contains(reason), "{finding:?}");
    }
    assert!(machine.netns.ip(&["link", "show", "tap0"]).contains("mtu 1500"));
    let told = machine.check(&named).ok().stdout;
    assert!(told.contains("\nleft as it is mtu:tap0: every machine and switch"), "{told}");

    machine.ethtool(&["-K", "up0", "tso", "off"]).ok();
    let mut command = machine.netns.command(edge::program());
    command.args(["--instance", "test-no-daemon", "check", "--uplink", "up0", "--fix", "--json"]);
    let fixed = read(&command.env("PATH", "/nonexistent").output_of());
    let finding = find(&fixed, "offloads:up0");
    let fix = finding.fix.as_ref().unwrap_or_else(|| panic!("not said: {finding:?}"));
    assert_eq!((finding.state.as_str(), fix.outcome.as_str()), ("slower", "failed"));
    assert!(fix.why.contains("apt install ethtool"), "{fix:?}");
}

#[test]
fn nothing_is_set_where_no_interface_is_named() {
    let machine = Machine::new();
    let output = machine.check(&["--fix"]);
    assert_eq!(output.status.code(), Some(64), "{output}");
    assert!(output.stderr.contains("--uplink") && output.stderr.contains("--underlay"), "{output}");
}

#[test]
fn an_uplink_that_edge_up_would_refuse_is_broken() {
    let machine = Machine::new();
    let output = machine.check(&["--json", "--uplink", "up9", "--uplink", "up0"]);
    assert_eq!(output.status.code(), Some(69), "{output}");
    let findings = read(&output);
    assert_eq!(find(&findings, "uplink:up9").state, "broken");
    assert_eq!(find(&findings, "uplink:up0").state, "ok");

    machine.netns.ip(&["address", "add", "100.64.3.4/24", "dev", "up0"]);
    let findings = machine.findings(&[]);
    let pool = find(&findings, "pool");
    assert_eq!(pool.state, "broken");
    assert!(pool.found.contains("100.64.3.4/24 is an address of up0"), "{pool:?}");
    let elsewhere = machine.findings(&["--ipv4-pool", "10.200.0.0/16"]);
    assert_eq!(find(&elsewhere, "pool").state, "ok");
}

#[test]
fn programs_on_edges_ports_are_named() {
    let machine = Machine::new();
    let listen = |address: &'static str| machine.netns.enter(|| TcpListener::bind(address));
    let _raw = listen("0.0.0.0:20005").expect("port 20005");
    let _tls = listen("[::]:443").expect("port 443");
    let _elsewhere = listen("192.0.2.10:80").expect("port 80");

    let findings = machine.findings(&[]);
    let raw = find(&findings, "raw-ports");
    assert_eq!(raw.state, "slower");
    let process = format!("(process {})", std::process::id());
    assert!(raw.found.starts_with("0.0.0.0:20005 by ") && raw.found.ends_with(&process), "{raw:?}");
    assert!(raw.remedy.as_deref().is_some_and(|text| text.contains("--raw-ports")));
    let tls = find(&findings, "tls-port");
    assert_eq!(tls.state, "slower");
    assert!(tls.meaning.contains("8443"), "{tls:?}");
    assert_eq!(find(&findings, "http-port").state, "ok", "edge does not listen there");
    let findings = machine.findings(&["--uplink", "up0", "--raw-ports", "30000-30009"]);
    assert_eq!(find(&findings, "http-port").state, "slower", "edge would listen there");
    assert_eq!(find(&findings, "raw-ports").state, "ok");

    let _metrics = listen("127.0.0.1:9464").expect("port 9464");
    assert_eq!(machine.check(&[]).status.code(), Some(69), "edge up would not start");
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_is_named_and_the_remedy_mends_it() {
    let machine = Machine::new();
    machine.nft("add table ip filter");
    machine
        .nft("add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
    let output = machine.check(&["--json"]);
    assert_eq!(output.status.code(), Some(69), "{output}");
    let findings = read(&output);
    let finding = find(&findings, "forward-filter");
    assert_eq!(finding.state, "broken");
    assert_eq!(finding.found, "table ip filter, chain FORWARD drops by default");

    let mend = |finding: &Finding| {
        let remedy = finding.remedy.as_deref().expect("a remedy");
        machine.netns.command("sh").args(["-c", remedy]).output_of().ok();
    };
    mend(finding);
    assert_eq!(find(&machine.findings(&[]), "forward-filter").state, "ok");
    machine.check(&[]).ok();

    machine.nft("add table ip6 fw");
    machine.netns.sysctl("net/ipv6/conf/all/forwarding", "1");
    machine.nft("add chain ip6 fw f { type filter hook forward priority 0; policy drop; }");
    let findings = machine.findings(&[]);
    let finding = find(&findings, "forward-filter");
    assert_eq!(
        (finding.state.as_str(), finding.found.as_str()),
        ("slower", "table ip6 fw, chain f drops by default")
    );
    mend(finding);
    assert_eq!(find(&machine.findings(&[]), "forward-filter").state, "ok");
}

#[test]
fn a_running_daemon_says_what_it_took_and_is_no_fault_of_its_own() {
    let lab = Lab::new(&[]);
    let output = lab.edge.cli(&["check", "--json", "--uplink", "auto"]).ok();
    let findings = read(&output);
    let took = find(&findings, "daemon-uplink:up0");
    assert!(took.found.starts_with("tcx on veth: 192.0.2.10"), "{took:?}");
    for name in ["tls-port", "http-port", "metrics-port", "raw-ports", "pool", "forward-filter"] {
        let finding = find(&findings, name);
        assert_eq!(finding.state, "ok", "{finding:?}");
    }
}
