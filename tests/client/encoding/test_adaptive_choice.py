"""The choice of an encoding, by made-up measurements: nothing here waits or looks at a clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from comfy_gpu_offload.client.encoding.adaptive_choice import AdaptiveChoice, adaptive_choice, choose, measured_in
from comfy_gpu_offload.client.encoding.link_speed import FAR, NEAR, LinkSpeed, Transfer
from comfy_gpu_offload.client.encoding.step_time import CallCost, EncodingKind, StepCost, expected_cost, step_s
from comfy_gpu_offload.client.timings import CallTimings

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


def test_a_call_tells_the_network_from_coding_and_computing() -> None:
    timings = CallTimings(
        pack_s=0.002,
        encode_s=0.003,
        exchange_s=1.0,
        decode_s=0.004,
        worker_decode_s=0.006,
        queue_s=0.1,
        compute_s=0.6,
        bytes_up=300,
        bytes_down=700,
        exchanges=1,
    )
    transfer, coding = measured_in(timings, raw_up=1000, raw_down=2000)
    # The worker's own storing, twice as much as here, is in neither of its figures.
    assert transfer == pytest.approx(Transfer(300, 700, 1.0 - 0.706 - 0.010))
    assert coding == pytest.approx(CallCost(1000, 2000, 300, 700, 0.005 + 0.010 + 0.004 + 0.006))


def test_a_cost_begins_as_a_guess_and_becomes_what_calls_took() -> None:
    guessed = expected_cost(EncodingKind.PREDICTED, [], FLUX, FLUX)
    assert guessed.up_bytes < 0.1 * FLUX
    ancestral = [CallCost(FLUX, FLUX, FLUX // 2, FLUX // 2, 0.030)] * 30
    taken = expected_cost(EncodingKind.PREDICTED, ancestral, FLUX, FLUX)
    assert taken.up_bytes == pytest.approx(FLUX / 2, rel=0.2)
    assert taken.coding_s == pytest.approx(0.030, rel=0.01)
    assert expected_cost(EncodingKind.PREDICTED, ancestral, 2 * FLUX, 2 * FLUX).coding_s == pytest.approx(
        0.060, rel=0.01
    )


def test_one_call_that_took_long_to_code_changes_nothing() -> None:
    usual = [CallCost(FLUX, FLUX, 1000, 1000, 0.010)] * 6
    assert expected_cost(EncodingKind.CODED, [*usual, usual[0]._replace(coding_s=2.0)], FLUX, FLUX).coding_s < 0.011


COSTS = {
    EncodingKind.RAW: StepCost(FLUX, FLUX, 0.001),
    EncodingKind.CODED: StepCost(0.66 * FLUX, 0.66 * FLUX, 0.004),
    EncodingKind.PREDICTED: StepCost(0.05 * FLUX, 0.3 * FLUX, 0.020),
}


@pytest.mark.parametrize(
    ("link", "wanted"),
    {
        "this machine": EncodingKind.RAW,
        "10 Gbit/s": EncodingKind.RAW,
        "1 Gbit/s": EncodingKind.RAW,
        "300 Mbit/s": EncodingKind.CODED,
        "20/100 Mbit/s": EncodingKind.PREDICTED,
        "5/20 Mbit/s": EncodingKind.PREDICTED,
    }.items(),
)
def test_the_link_decides(link: str, wanted: EncodingKind) -> None:
    others = [kind for kind in EncodingKind if kind is not wanted]
    assert all(
        choose(current, LINKS[link], COSTS) in {wanted, _near(current, LINKS[link], wanted)} for current in others
    )
    assert choose(wanted, LINKS[link], COSTS) is wanted


def _near(current: EncodingKind, link: LinkSpeed, wanted: EncodingKind) -> EncodingKind:
    """Return the current kind if the wanted one gains too little to change, else the wanted one."""
    now, then = (step_s(0.0, link, COSTS[kind]) for kind in (current, wanted))
    return current if now - then < max(0.1 * now, 0.002) else wanted


def test_a_small_gain_changes_nothing() -> None:
    costs = {EncodingKind.RAW: StepCost(1.05 * FLUX, FLUX, 0.0), EncodingKind.CODED: StepCost(FLUX, FLUX, 0.0)}
    assert choose(EncodingKind.RAW, HOME, costs) is EncodingKind.RAW
    tiny = {EncodingKind.RAW: StepCost(600, 600, 0.0), EncodingKind.CODED: StepCost(300, 300, 0.0)}
    assert choose(EncodingKind.RAW, LINKS["this machine"], tiny) is EncodingKind.RAW


def test_a_tunnel_is_known_by_its_connections_opening_until_a_probe_says_otherwise() -> None:
    def guess(choice: AdaptiveChoice) -> LinkSpeed:
        return choice._guess

    choice = AdaptiveChoice(EncodingKind.RAW, NEAR)
    choice.opened(None)
    assert guess(choice) == NEAR
    choice.opened(0.05)
    assert guess(choice) == FAR
    choice.probed(0.001)
    assert guess(choice) == NEAR
    choice.opened(0.05)  # a later connection's, which is less exact
    assert guess(choice) == NEAR


def test_behind_a_tunnel_runs_and_pictures_are_compressed_before_any_step() -> None:
    choice = AdaptiveChoice(EncodingKind.RAW, NEAR)
    choice.opened(0.05)
    assert choice.kind is EncodingKind.PREDICTED
    choice.probed(0.001)  # the opening was slow for another reason
    assert choice.kind is EncodingKind.RAW
    choice.probed(0.05)
    assert choice.kind is EncodingKind.PREDICTED


def test_a_worker_that_reads_no_codec_is_sent_raw_data_through_a_tunnel_too() -> None:
    choice = AdaptiveChoice(EncodingKind.RAW, NEAR, [EncodingKind.RAW])
    choice.probed(0.05)
    assert choice.kind is EncodingKind.RAW


def test_a_measured_choice_outlives_a_later_probe() -> None:
    choice = AdaptiveChoice(EncodingKind.RAW, NEAR)
    choice.probed(0.05)
    timings = CallTimings(exchange_s=0.06, bytes_up=FLUX, bytes_down=FLUX, exchanges=1)
    choice.observe(EncodingKind.PREDICTED, timings, (FLUX, FLUX, FLUX))
    choice.probed(0.001)
    assert choice.kind is EncodingKind.PREDICTED


@dataclass
class World:
    """A worker behind a link, whose calls take what they would; with `ancestral`, no latent can be predicted."""

    link: LinkSpeed
    ancestral: bool = False
    noise: float = 0.0
    latent: int = FLUX

    def __post_init__(self) -> None:
        self._random = random.Random(1)
        self._history = 0

    def call(self, choice: AdaptiveChoice, conditioning: int = 0) -> EncodingKind:
        """One call of a run of twenty."""
        if choice.takes_probe():
            choice.probed(self._about(self.link.round_trip_s))
        kind = choice.begin(self.latent)
        up, down, coding_s = self._cost(kind)
        first_up = up + 0.8 * conditioning
        choice.observe(
            kind, self._timings(first_up, down, coding_s), (self.latent, self.latent + conditioning, self.latent)
        )
        return kind

    def _cost(self, kind: EncodingKind) -> tuple[float, float, float]:
        self._history = self._history + 1 if kind is EncodingKind.PREDICTED else 0
        cost = COSTS[kind]
        if kind is EncodingKind.PREDICTED and (self.ancestral or self._history % 20 == 1):
            return COSTS[EncodingKind.CODED].up_bytes, COSTS[EncodingKind.CODED].down_bytes * 0.7, cost.coding_s
        return cost.up_bytes, cost.down_bytes, cost.coding_s

    def _timings(self, up: float, down: float, coding_s: float) -> CallTimings:
        # A quarter each for storing and reading, here and there; the worker's storing is not told.
        wire_s = self._about(self.link.network_s(up, down)) + coding_s / 4
        quarter = self._about(coding_s / 4)
        return CallTimings(
            encode_s=quarter,
            exchange_s=0.6 + wire_s + quarter,
            decode_s=quarter,
            worker_decode_s=quarter,
            compute_s=0.6,
            bytes_up=int(up) + 600,
            bytes_down=int(down) + 400,
            exchanges=1,
        )

    def _about(self, value: float) -> float:
        return value * (1 + self.noise * abs(self._random.gauss(0, 1)))


def best(world: World) -> float:
    return min(beyond(world, kind) for kind in EncodingKind)


def beyond(world: World, kind: EncodingKind) -> float:
    """Return the seconds of a call beyond computing, with that kind."""
    cost = COSTS[kind]
    if kind is EncodingKind.PREDICTED and world.ancestral:
        cost = StepCost(
            COSTS[EncodingKind.CODED].up_bytes, 0.7 * COSTS[EncodingKind.CODED].down_bytes, cost.coding_s
        )
    return step_s(0.0, world.link, cost)


def began(near: bool) -> AdaptiveChoice:
    return AdaptiveChoice(EncodingKind.RAW, NEAR) if near else AdaptiveChoice(EncodingKind.PREDICTED, FAR)


def kinds(world: World, choice: AdaptiveChoice, calls: int) -> Iterator[EncodingKind]:
    for number in range(calls):
        yield world.call(choice, conditioning=4_000_000 if number == 0 else 0)


@pytest.mark.parametrize("near", [True, False], ids=["begun near", "begun far"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("ancestral", [False, True], ids=["foretold", "ancestral"])
@pytest.mark.parametrize("name", LINKS)
def test_a_session_comes_to_a_way_that_is_nearly_the_best(
    name: str, ancestral: bool, noise: float, near: bool
) -> None:
    world = World(LINKS[name], ancestral, noise)
    gone = list(kinds(world, began(near), 40))
    lost = [beyond(world, kind) / best(world) for kind in gone[12:]]
    assert sum(lost) / len(lost) < 1.25, gone


def test_a_tunnel_at_this_machines_address_shows_by_its_round_trip() -> None:
    assert list(kinds(World(HOME), began(near=True), 8)) == [EncodingKind.PREDICTED] * 8


def test_a_slow_tunnel_with_a_short_round_trip_shows_by_its_first_calls() -> None:
    near = LinkSpeed(0.002, HOME.up, HOME.down)
    assert list(kinds(World(near), began(near=True), 8)) == [EncodingKind.RAW, *[EncodingKind.PREDICTED] * 7]


def test_a_worker_on_this_machine_is_never_coded_for() -> None:
    assert set(kinds(World(LINKS["this machine"], noise=0.3), began(near=True), 200)) == {EncodingKind.RAW}


def test_a_link_that_gets_slow_is_noticed() -> None:
    world, choice = World(LINKS["10 Gbit/s"]), began(near=False)
    assert list(kinds(world, choice, 30))[-1] is EncodingKind.RAW
    world.link = HOME
    assert EncodingKind.RAW not in list(kinds(world, choice, 30))[8:]


def test_a_way_that_did_not_pay_is_tried_again_after_a_while() -> None:
    world, choice = World(HOME, ancestral=True), began(near=False)
    before = [world.call(choice) for _ in range(60)]
    world.ancestral = False
    after = [world.call(choice) for _ in range(150)]
    assert after[-20:] == [EncodingKind.PREDICTED] * 20, (before, after)


def test_small_calls_say_nothing_of_the_link() -> None:
    """On a busy machine they take long all the same."""
    choice = began(near=True)
    for _ in range(20):
        kind = choice.begin(4096)
        choice.observe(
            kind, CallTimings(exchange_s=0.1, bytes_up=5000, bytes_down=5000, exchanges=1), (4096, 4096, 4096)
        )
    assert list(kinds(World(LINKS["this machine"]), choice, 20)) == [EncodingKind.RAW] * 20


def test_calls_of_other_sizes_do_not_speak_for_each_other() -> None:
    """The fixed cost of a call counts for small ones only."""
    choice = began(near=False)
    for _ in range(20):
        kind = choice.begin(16_384)
        small = CallTimings(encode_s=0.02, exchange_s=0.2, bytes_up=4000, bytes_down=4000, exchanges=1)
        choice.observe(kind, small, (16_384, 16_384, 16_384))
    gone = list(kinds(World(HOME), choice, 20))
    assert gone[-1] is EncodingKind.PREDICTED


@pytest.mark.parametrize("spoilt", [{"exchanges": 2}, {"load_s": 3.0}])
def test_a_call_that_was_made_again_or_waited_for_weights_tells_nothing(spoilt: dict[str, float]) -> None:
    choice = began(near=True)
    for _ in range(8):
        kind = choice.begin(FLUX)
        timings = CallTimings(exchange_s=9.0, bytes_up=FLUX, bytes_down=FLUX, **{"exchanges": 1, **spoilt})  # type: ignore[arg-type]
        choice.observe(kind, timings, (FLUX, FLUX, FLUX))
    assert choice.kind is EncodingKind.RAW


def test_only_ways_that_the_worker_knows_are_gone() -> None:
    known = adaptive_choice(EncodingKind.PREDICTED, ["raw", "planes", "zstd"])
    old = adaptive_choice(EncodingKind.PREDICTED, ["raw"])
    assert known is not None
    assert old is not None
    world = World(LINKS["5/20 Mbit/s"])
    assert {world.call(known) for _ in range(10)} == {EncodingKind.CODED}
    assert {world.call(old) for _ in range(10)} == {EncodingKind.RAW}
    assert adaptive_choice(None, ["raw", "planes"]) is None


def test_every_way_is_lossless() -> None:
    assert all(kind.codec.lossless for kind in EncodingKind)
