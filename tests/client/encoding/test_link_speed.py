"""The link's speed, by transfers of its own and by a session's exchanges; nothing here waits."""

from __future__ import annotations

import pytest

from comfy_gpu_offload.client.encoding.link_speed import (
    FAR,
    NEAR,
    LinkSpeed,
    Transfer,
    estimated_link,
    measure_link,
)

HOME = LinkSpeed(0.04, 2.5e6, 12.5e6)
LINKS = {
    "this machine": LinkSpeed(0.0003, 2e9, 2e9),
    "10 Gbit/s": LinkSpeed(0.0004, 1.2e9, 1.2e9),
    "1 Gbit/s": LinkSpeed(0.0006, 1.2e8, 1.2e8),
    "300 Mbit/s": LinkSpeed(0.02, 3.7e7, 3.7e7),
    "20/100 Mbit/s": HOME,
    "5/20 Mbit/s": LinkSpeed(0.06, 6e5, 2.5e6),
}
FLUX = 524_288


class Probed:
    """A link that answers as `LINK` would, its first transfers each way slowly, as a new connection's are."""

    def __init__(self, link: LinkSpeed, slow: int = 0) -> None:
        self.link, self.slow = link, slow
        self.seen: dict[tuple[int, int], int] = {}

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: object = None) -> float:
        times = self.seen[up_bytes, down_bytes] = self.seen.get((up_bytes, down_bytes), 0) + 1
        return self.link.network_s(up_bytes, down_bytes) * (3 if times <= self.slow else 1)


def transfers(link: LinkSpeed, sizes: list[tuple[int, int]]) -> list[Transfer]:
    return [Transfer(up, down, link.network_s(up, down)) for up, down in sizes]


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("guess", [NEAR, FAR], ids=["near", "far"])
def test_the_links_speed_comes_out_of_exchanges_of_several_sizes(name: str, guess: LinkSpeed) -> None:
    link = LINKS[name]
    found = estimated_link(
        transfers(link, [(500_000, 300_000), (20_000, 300_000), (20_000, 280_000)]), guess, link.round_trip_s
    )
    assert found.round_trip_s == pytest.approx(link.round_trip_s, rel=0.02)
    assert found.up == pytest.approx(link.up, rel=0.05)
    assert found.down == pytest.approx(link.down, rel=0.05)


def test_without_an_exchange_it_is_the_guess() -> None:
    assert estimated_link([], FAR) == pytest.approx(FAR)


def test_what_exchanges_of_one_size_take_is_predicted_though_they_do_not_tell_up_from_down() -> None:
    found = estimated_link(transfers(HOME, [(FLUX, FLUX)] * 5), NEAR, HOME.round_trip_s)
    assert found.network_s(FLUX, FLUX) == pytest.approx(HOME.network_s(FLUX, FLUX), rel=0.02)
    assert found.up == pytest.approx(found.down, rel=0.01)  # as in the guess


@pytest.mark.parametrize("odd", [0.0, 1e-9, 1e3])
def test_no_exchange_makes_a_speed_that_is_none(odd: float) -> None:
    found = estimated_link([Transfer(0, 0, odd), Transfer(FLUX, 10, odd), Transfer(10, FLUX, 0.001)], NEAR)
    assert found.round_trip_s >= 0
    assert 0 < found.up <= 10e9 * 1.001
    assert 0 < found.down <= 10e9 * 1.001


def test_what_was_measured_last_counts_most() -> None:
    slower = LinkSpeed(HOME.round_trip_s, HOME.up / 4, HOME.down / 4)
    sizes = [(FLUX, FLUX), (FLUX // 10, FLUX), (FLUX, FLUX // 4)]
    found = estimated_link(transfers(HOME, sizes * 8) + transfers(slower, sizes), FAR, HOME.round_trip_s)
    assert found.network_s(FLUX, FLUX) == pytest.approx(slower.network_s(FLUX, FLUX), rel=0.02)
    back = estimated_link(transfers(slower, sizes * 8) + transfers(HOME, sizes), FAR, HOME.round_trip_s)
    assert back.network_s(FLUX, FLUX) < 0.5 * slower.network_s(FLUX, FLUX)


def test_one_exchange_that_took_long_does_not_make_a_slow_link() -> None:
    usual = transfers(HOME, [(FLUX, FLUX), (FLUX // 10, FLUX)] * 5)
    found = estimated_link([*usual, usual[0]._replace(seconds=3.0)], FAR, HOME.round_trip_s)
    assert found.network_s(FLUX, FLUX) == pytest.approx(HOME.network_s(FLUX, FLUX), rel=0.2)


def test_a_link_is_measured_as_it_is_once_its_connection_has_settled() -> None:
    found = measure_link(Probed(HOME, slow=2), 500_000)
    assert found.round_trip_s == pytest.approx(HOME.round_trip_s)
    assert found.up == pytest.approx(HOME.up)
    assert found.down == pytest.approx(HOME.down)


def test_a_transfer_no_longer_than_the_round_trip_gives_a_rate_all_the_same() -> None:
    class Instant:
        def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: object = None) -> float:
            return 0.01 if not up_bytes and not down_bytes else 0.009

    found = measure_link(Instant(), 1000)
    assert 0 < found.network_s(1000, 1000) < 0.011
