//! Hosts join, die and return, containers come and go by the hundred: nobody gets what is for
//! somebody else, and the living hear each other all the time.

use tests::{
    lab::PATIENCE,
    letters::{Mailbox, Writer},
    process::wait_for,
    region::{Machine, Region, Underlay},
    tenant::Tenant,
    traffic::{Mirror, Transfers},
};

#[test]
fn hosts_join_die_and_return_on_a_shared_link() {
    hosts_join_die_and_return(Underlay::Direct);
}

#[test]
fn hosts_join_die_and_return_over_ipv4() {
    hosts_join_die_and_return(Underlay::V4);
}

#[test]
fn hosts_join_die_and_return_over_ipv6() {
    hosts_join_die_and_return(Underlay::V6);
}

/// Two containers on two hosts that must not notice anything.
struct Living {
    tenants: [Tenant; 2],
    mailboxes: [Mailbox; 2],
    writers: [Writer; 2],
    _mirrors: [Mirror; 2],
    transfers: [Transfers; 2],
}

impl Living {
    fn on(hosts: [&Machine; 2]) -> Self {
        let mut number = 0;
        let tenants = hosts.map(|host| {
            number += 1;
            host.private(&format!("living{number}"))
        });
        let mailboxes = tenants.each_ref().map(Mailbox::of);
        let [a, b] = &tenants;
        let writers = [Writer::of(a, &[b.i6pn()]), Writer::of(b, &[a.i6pn()])];
        let mirrors = [a, b].map(|tenant| Mirror::serve(&tenant.netns, 8000));
        let transfers = [(a, b), (b, a)]
            .map(|(from, to)| Transfers::start(&from.netns, (to.i6pn(), 8000).into(), 1));
        Self { tenants, mailboxes, writers, _mirrors: mirrors, transfers }
    }

    /// They hear each other, and nothing else.
    #[track_caller]
    fn live(&self) {
        self.mailboxes[0].wait_for_more(&self.tenants[1]);
        self.mailboxes[1].wait_for_more(&self.tenants[0]);
        self.transfers.iter().for_each(Transfers::wait_for_more);
    }

    /// Somebody new is written to, and gets it.
    #[track_caller]
    fn greet(&self, tenant: &Tenant) -> Mailbox {
        let mailbox = Mailbox::of(tenant);
        for (writer, from) in self.writers.iter().zip(&self.tenants) {
            writer.also_to(tenant.i6pn());
            mailbox.wait_for_more(from);
        }
        mailbox
    }
}

fn hosts_join_die_and_return(underlay: Underlay) {
    let mut region = Region::over(underlay);
    let living = Living::on([&region.hosts[0], &region.hosts[1]]);
    let third = region.hosts[2].private("third");
    let at_third = living.greet(&third);
    for round in 0..if tests::edge::long() { 20 } else { 2 } {
        // One joins, and dies with all that is on it.
        let guest = region.join().private(&format!("guest{round}"));
        let at_guest = living.greet(&guest);
        living.live();
        drop(region.hosts.pop());
        living.live();
        at_guest.assert_own();
        drop(guest);
        // A daemon dies, and its containers go on.
        region.hosts[2].edge.kill9();
        at_third.wait_for_more(&living.tenants[0]);
        living.live();
        region.hosts[2].edge.start();
        at_third.wait_for_more(&living.tenants[1]);
        // A host is not to be reached, and then it is.
        region.hosts[2].place.cut(0);
        living.live();
        region.hosts[2].place.mend(0);
        at_third.wait_for_more(&living.tenants[0]);
        containers_come_and_go(&region.hosts[2], &living, round);
        living.live();
    }
    // Those that died are known to be dead, until somebody says that they will not be back.
    wait_for("the dead to be known as such", 2 * PATIENCE, || {
        let alive = region.gateway().edge.hosts().iter().filter(|host| host.alive).count();
        (alive == 4).then_some(())
    });
    for dead in region.gateway().edge.hosts().iter().filter(|host| !host.alive) {
        region.gateway().edge.cli(&["hosts", "forget", &dead.id.to_string()]).ok();
    }
    wait_for("the dead to be forgotten", PATIENCE, || {
        (region.hosts[0].edge.hosts().len() == 4).then_some(())
    });
    living.live();
    at_third.assert_own();
    let Living { transfers, mailboxes, .. } = living;
    mailboxes.iter().for_each(Mailbox::assert_own);
    transfers.into_iter().for_each(Transfers::finish);
}

/// More than a hundred over all underlays, some at a time.
fn containers_come_and_go(host: &Machine, living: &Living, round: usize) {
    for batch in 0..5 {
        let names = (0..5).map(|number| format!("guest{round}-{batch}-{number}"));
        let guests: Vec<_> = names.map(|name| host.private(&name)).collect();
        let mailboxes: Vec<_> = guests.iter().map(|guest| living.greet(guest)).collect();
        drop(guests);
        mailboxes.iter().for_each(Mailbox::assert_own);
    }
}
