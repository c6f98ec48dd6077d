//! The same once more, with the region's state in etcd: each gateway has a store of its own.

use super::{convergence, hosts, joining, lab::in_etcd, outages};

macro_rules! once_more {
    ($($file:ident: $($test:ident,)*;)*) => {
        $($(
            #[test]
            #[ignore = "needs etcd; `cargo xtask test` has it"]
            fn $test() {
                in_etcd($file::$test);
            }
        )*)*
    };
}

once_more! {
    convergence:
        after_any_history_all_views_agree,
    ;
    hosts:
        hosts_see_each_other_and_who_is_there,
        a_host_is_told_of_the_workspaces_that_it_runs,
        a_host_cannot_write_for_another,
        a_tunnel_is_open_when_the_call_returns_and_closed_when_it_is_stopped,
        a_dead_host_is_out_of_sight_and_takes_everything_back,
    ;
    joining:
        a_token_makes_one_host,
        a_wrong_an_old_and_an_unknown_token_are_refused_by_name,
        of_many_at_once_as_many_join_as_the_token_allows,
        a_machine_whose_answer_was_lost_gets_the_same_number,
        strangers_and_hosts_of_another_region_are_refused,
        a_certificate_is_renewed_for_the_same_machine_and_key,
        a_forgotten_host_is_refused_and_its_number_and_blocks_come_back_late,
    ;
    outages:
        after_a_time_without_gateway_everything_converges,
        a_name_that_was_taken_meanwhile_is_refused_to_the_second,
        with_one_of_two_gateways_gone_the_other_serves,
        a_gateway_is_a_machine_of_its_region_and_sees_all_of_it,
        a_second_machine_with_a_hosts_key_does_not_share_its_number,
        addresses_are_there_while_no_gateway_is,
    ;
}
