//! `sk_lookup`: one listening socket per family serves every raw port that has a live tunnel.

use aya_ebpf::programs::SkLookupContext;
use edge_common::{
    address::{Address, Endpoint},
    decide,
};

use crate::maps::{self, Maps};

const AF_INET: u32 = 2;
const SK_PASS: u32 = 1;

/// Steers a connection to the userspace listener if a live tunnel has its port; everything else
/// of the port range stays the machine's own.
#[inline(always)]
pub(crate) fn raw_ports(ctx: SkLookupContext) -> u32 {
    let local = local(&ctx);
    if decide::claims(&Maps, &local) {
        // Without a socket in the map the kernel goes on as if there were no program.
        let index = u32::from(!local.address.is_v4());
        let _unserved = maps::raw_listeners().redirect_sk_lookup(&ctx, index, 0);
    }
    SK_PASS
}

/// The endpoint that was dialled. Read field by field: the verifier wants each field of the
/// context at a constant offset, and plain loads from both arms would be merged into one.
#[inline(always)]
fn local(ctx: &SkLookupContext) -> Endpoint {
    let lookup = ctx.lookup;
    // SAFETY: the kernel passes a valid context.
    unsafe {
        let port = (&raw const (*lookup).local_port).read_volatile();
        let v4 = (&raw const (*lookup).local_ip4).read_volatile();
        let v6 = &raw const (*lookup).local_ip6;
        let words = [
            (&raw const (*v6)[0]).read_volatile(),
            (&raw const (*v6)[1]).read_volatile(),
            (&raw const (*v6)[2]).read_volatile(),
            (&raw const (*v6)[3]).read_volatile(),
        ];
        let family = (&raw const (*lookup).family).read_volatile();
        let address = match family {
            AF_INET => Address::v4(v4.to_ne_bytes()),
            _ => Address::v6(words),
        };
        Endpoint { address, port }
    }
}
