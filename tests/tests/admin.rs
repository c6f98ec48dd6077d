//! Who may give commands to a daemon.

use tests::{
    edge,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Output, Start as _, wait_for},
};

/// The command, by a process in a namespace that can reach the daemon's socket.
fn inside(lab: &Lab, namespace: &NetNs, words: &[&str]) -> Output {
    let outside = lab.edge.command();
    let mut command = namespace.command(edge::program());
    command.args(outside.get_args()).args(words);
    command.output_of()
}

#[test]
fn a_container_gives_no_commands() {
    let lab = Lab::new(&[]);
    let (guest, other) = (NetNs::new("guest"), NetNs::new("other"));
    inside(&lab, &guest, &["containers"]).ok();

    let path = guest.path().display().to_string();
    let mut attach = lab.edge.command();
    let attach = attach.args(["attach", "--netns", &path, "--name", "guest"]).running();
    wait_for("the container", PATIENCE, || lab.edge.containers().pop());

    let other = other.path().display().to_string();
    for words in [
        &["containers"][..],
        &["tunnels"],
        &["ca"],
        &["attach", "--netns", &other],
        &["run", "--", "true"],
    ] {
        let output = inside(&lab, &guest, words).refused();
        assert_eq!(output.status.code(), Some(69), "{output}");
        assert!(output.stderr.contains("it is inside container \"guest\""), "{output}");
    }
    assert_eq!(lab.edge.containers().len(), 1, "the host is heard, and nothing was attached");

    drop(attach);
    wait_for("the container's end", PATIENCE, || lab.edge.containers().is_empty().then_some(()));
    inside(&lab, &guest, &["containers"]).ok();
}
