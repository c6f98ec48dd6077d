//! Tests of the client half against the API itself.

use std::{net::IpAddr, sync::Arc, sync::atomic::Ordering};

use tokio::net::TcpListener;

use super::*;
use crate::{
    host::{api, callers::Callers},
    region::{
        gate::Gate,
        tunnel::Container,
        tunnels::fake::{self, FakeSteering, Region},
    },
};

struct OneCaller;

impl Callers for OneCaller {
    fn by_address(&self, _: IpAddr) -> Option<Arc<Container>> {
        Some(fake::container(1))
    }
}

async fn served() -> (Region, String) {
    let region = fake::region(Duration::from_secs(600)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tunnels = region.tunnels.clone();
    tokio::spawn(async move {
        api::serve::<_, FakeSteering>(
            listener,
            Arc::new(OneCaller),
            tunnels,
            Gate::default(),
            std::future::pending(),
        )
        .await
    });
    (region, url)
}

fn wanted(port: u32, unencrypted: bool, h2: bool) -> TunnelStartRequest {
    TunnelStartRequest { port, unencrypted, tunnel_type: kind(h2), options: None }
}

#[tokio::test]
async fn a_command_runs_beside_its_tunnel() {
    let (region, url) = served().await;
    let script = r#"[ "${EDGE_URL#https://*.edge.localhost:}" = 8443 ] &&
        [ "${EDGE_TCP%:*}" = localhost ] && exit 7"#;
    let command = ["sh", "-c", script].map(OsString::from).into();
    let code = forward_at(&url, wanted(8000, true, false), command).await.unwrap();
    assert_eq!(code, ExitCode::from(7));
    assert!(region.tunnels.list().is_empty(), "the tunnel ends with the command");

    let missing = vec![OsString::from("/no/such/program")];
    forward_at(&url, wanted(8000, true, false), missing).await.unwrap_err();
    assert!(region.tunnels.list().is_empty());
}

#[tokio::test]
async fn a_tunnel_is_told_as_people_use_it() {
    let (_region, url) = served().await;
    let client = connect(&url).await.unwrap();
    let tunnel = start(client.clone(), wanted(8000, true, false)).await.unwrap();
    let public = public_url(&tunnel);
    assert!(public.starts_with("https://") && public.ends_with(".edge.localhost:8443"), "{public}");
    assert!(tcp_socket(&tunnel).unwrap().starts_with("localhost:200"));
    assert_eq!(public_url(&TunnelStartResponse { port: 443, ..tunnel }).matches(':').count(), 1);

    let again = start(client.clone(), wanted(8000, true, false)).await.unwrap_err().to_string();
    assert!(again.contains("Port 8000 is already forwarded; stop the program"), "{again}");
    let h2 = start(client.clone(), wanted(8001, true, true)).await.unwrap_err().to_string();
    assert!(h2.contains("H2 can only be used with encrypted ports"), "{h2}");
}

#[tokio::test]
async fn a_data_path_that_recovers_is_waited_for() {
    let (region, url) = served().await;
    let client = connect(&url).await.unwrap();
    region.steering.fails.store(true, Ordering::SeqCst);
    let steering = region.steering.clone();
    let recovery = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        steering.fails.store(false, Ordering::SeqCst);
    };
    let (started, ()) = tokio::join!(start(client.clone(), wanted(8000, false, false)), recovery);
    started.unwrap();
}

#[tokio::test]
async fn outside_a_container_it_says_so() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = connect(&format!("http://127.0.0.1:{port}")).await.unwrap_err().to_string();
    assert!(error.contains("only inside a container") && error.contains("edge run"), "{error}");
}
