"""Who holds a lease, and when it ends."""

import time

import redis

from workers.leases import Lease


def test_a_second_owner_is_refused_until_the_first_lets_go(client: redis.Redis) -> None:
    with Lease(client, "stage", 5) as first, Lease(client, "stage", 5) as second:
        assert (first.held, second.held) == (True, False)

    with Lease(client, "stage", 5) as third:
        assert third.held


def test_a_living_owner_keeps_its_lease_beyond_its_life(client: redis.Redis) -> None:
    with Lease(client, "stage", 0.3):
        time.sleep(0.7)
        with Lease(client, "stage", 0.3) as other:
            assert not other.held


def test_a_dead_owners_lease_expires(client: redis.Redis) -> None:
    client.set("finstill:lease:stage", "somebody dead", px=200)

    time.sleep(0.3)

    with Lease(client, "stage", 5) as lease:
        assert lease.held


def test_an_owner_learns_that_it_was_replaced_and_does_not_free_the_others_lease(
    client: redis.Redis,
) -> None:
    with Lease(client, "stage", 0.3) as lease:
        client.set("finstill:lease:stage", "another", px=60_000)
        time.sleep(0.3)
        assert lease.lost

    assert client.get("finstill:lease:stage") == b"another"
