//! Members of a cluster: the only containers that reach each other by IPv4.

use crate::{packet::Headers, tables::Tables};

/// Whether source and destination, both of the region's IPv4 range, are of one cluster.
#[inline(always)]
pub(crate) fn joins<T: Tables>(headers: &Headers, tables: &T) -> bool {
    match tables.member(headers.source.last()) {
        Some(from) => {
            let mark = from.mark;
            matches!(tables.member(headers.destination.last()), Some(to) if to.mark == mark)
        }
        None => false,
    }
}
