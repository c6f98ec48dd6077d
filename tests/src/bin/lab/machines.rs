//! Gateways, hosts and an internet. Each machine's name is a command that runs something there.

use std::{
    env, fs,
    io::Result,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use tests::{
    edge::program,
    netns::NetNs,
    region::{Machine, Plan, Region, Scene},
};

use crate::shell;

pub(crate) fn run(plan: Plan) -> ExitCode {
    let underlay = plan.underlay;
    let region = plan.up();
    let folder = tempfile::Builder::new().prefix("edge-lab-").tempdir();
    let folder = match folder.and_then(|folder| doors(&region, folder.path()).map(|()| folder)) {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("lab: cannot write the machines' commands: {error}; is TMPDIR writable?");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", guide(&region, folder.path(), &underlay.to_string()));
    let mut command = Command::new(shell::program());
    command.env("PATH", search_path(folder.path()));
    shell::open(command)
}

/// A program for each machine that enters it and runs what it is given, or a shell.
fn doors(region: &Region, folder: &Path) -> Result<()> {
    for machine in region.machines() {
        let run = machine.edge.folder().join("run");
        let environment =
            format!("EDGE_INSTANCE={} EDGE_RUN_DIR={}", machine.edge.instance(), run.display());
        door(folder, &machine.place.name, &machine.place.netns, &environment)?;
    }
    door(folder, "internet", &region.scene.internet, "")
}

fn door(folder: &Path, name: &str, netns: &NetNs, environment: &str) -> Result<()> {
    let path = folder.join(name);
    let text = format!(
        "#!/bin/sh\n[ $# -gt 0 ] || set -- \"${{SHELL:-/bin/sh}}\"\n\
         exec nsenter --net={} env PATH='{}' {environment} \"$@\"\n",
        netns.path().display(),
        search_path(folder),
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
}

/// The machines' commands and `edge` before all others.
fn search_path(folder: &Path) -> String {
    let binary = program();
    let edge = binary.parent().unwrap_or(Path::new("/"));
    format!("{}:{}:{}", folder.display(), edge.display(), env::var("PATH").unwrap_or_default())
}

fn guide(region: &Region, folder: &Path, underlay: &str) -> String {
    let mut text = format!("underlay  {underlay}\n");
    let mut line = |name: &str, netns: &NetNs, addresses: &str| {
        text += &format!("{name:9} {addresses:44} {}\n", netns.path().display());
    };
    for Machine { place, .. } in region.machines() {
        let own = place.underlay.iter().map(ToString::to_string);
        let public = [place.public.to_string(), place.public_v6.to_string()];
        let all: Vec<String> = public.into_iter().chain(own).collect();
        line(&place.name, &place.netns, &all.join(" "));
    }
    let client = format!("{} {}", Scene::CLIENT, Scene::CLIENT_V6);
    line("internet", &region.scene.internet, &client);
    let authority = region.gateway().edge.folder().join("ca/ca.pem");
    format!(
        "{text}authority {}
enter     a name is a command: `host1` is a shell there, `host1 edge containers` runs there;
          from another terminal {}/host1
try       gateway1 edge hosts
          host1 edge run --i6pn --name web -- python3 -m http.server --bind :: 8000 &
          host2 edge run --i6pn -- curl --silent http://web.main.edge.internal:8000/
          host1 edge run --unencrypted-port 8000 -- python3 -m http.server 8000 &
          host1 edge tunnels
leave     exit",
        authority.display(),
        folder.display(),
    )
}
