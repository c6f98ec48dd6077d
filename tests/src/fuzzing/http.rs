//! What is read of plain HTTP: by the redirect to https, and before the apology for a container
//! that cannot be reached.

use edge_user::gateway::fuzzing;

use super::pieces;

pub(super) fn run(bytes: &[u8]) {
    let Some((whole, pieces)) = pieces(bytes) else { return };
    let read = fuzzing::redirect(&pieces);
    assert_eq!(read, fuzzing::redirect(&[whole]), "pieces made a difference");
    match read {
        Ok((host, target)) => {
            // Both become part of a header.
            let plain = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
            assert!(plain(&host) && plain(&target), "{host:?} {target:?}");
            assert!(target.starts_with('/'), "{target:?}");
            assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase()), "{host:?}");
        }
        Err(status) => {
            let is_known = status.is_none_or(|status| [400, 431].contains(&status));
            assert!(is_known, "{status:?}");
        }
    }
    let method = fuzzing::apology(&pieces);
    assert_eq!(method, fuzzing::apology(&[whole]), "pieces made a difference");
    if let Some(method) = method {
        assert!(whole.starts_with(format!("{method} ").as_bytes()), "{method:?}");
    }
}
