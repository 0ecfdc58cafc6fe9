from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from comfy_gpu_offload.errors import ConfigError, NothingFitsError
from comfy_gpu_offload.rental.gpu_choice import Cloud, GpuWish, candidates
from comfy_gpu_offload.rental.model_memory import memory_need
from comfy_gpu_offload.rental.names import new_name, our_name
from comfy_gpu_offload.rental.volumes import limited
from comfy_gpu_offload.runpod.rest.schema import GpuOffer


def offer(name: str, memory: int, secure: float, community: float, stock: str = "HIGH", **fields: Any) -> GpuOffer:
    price = {"secure": secure, "community": community, "serverless": secure * 2}
    data = {"id": f"NVIDIA {name}", "name": name, "memory": memory, "price": price, "availability": stock}
    has = {"secure": secure > 0, "community": community > 0, "manufacturer": "Nvidia", "pool": f"POOL_{memory}"}
    return GpuOffer.model_validate(data | has | fields, strict=False)


EU = {"id": "EU-RO-1", "name": "Romania", "availability": "LOW"}
US = {"id": "US-KS-2", "name": "Kansas", "availability": "NONE"}
OFFERS = [
    offer("RTX 4090", 24, 0.69, 0.34, dataCenters=[EU, US]),
    offer("L4", 24, 0.43, 0.0, "LOW"),
    offer("A100", 80, 1.64, 1.19, "NONE"),
    offer("RTX A4000", 16, 0.25, 0.17),
    offer("MI300X", 192, 0.2, 0.0, manufacturer="AMD"),
]
BOTH: dict[Cloud | None, list[GpuOffer]] = {"SECURE": OFFERS, "COMMUNITY": OFFERS}


def names(wish: GpuWish, offers: dict[Cloud | None, list[GpuOffer]] | None = None) -> list[tuple[str, str | None]]:
    return [(each.name, each.cloud) for each in candidates(BOTH if offers is None else offers, wish)]


def test_what_fits_comes_cheapest_first_from_both_clouds() -> None:
    assert names(GpuWish(20)) == [("RTX 4090", "COMMUNITY"), ("L4", "SECURE"), ("RTX 4090", "SECURE")]
    assert names(GpuWish(20), {"SECURE": OFFERS}) == [("L4", "SECURE"), ("RTX 4090", "SECURE")]
    assert names(GpuWish(20, max_price=0.5)) == [("RTX 4090", "COMMUNITY"), ("L4", "SECURE")]


def test_a_named_gpu_counts_more_than_the_memory() -> None:
    assert names(GpuWish(20, gpu="a4000")) == [("RTX A4000", "COMMUNITY"), ("RTX A4000", "SECURE")]
    assert names(GpuWish(20, gpu="rtx 4090", max_price=0.5)) == [("RTX 4090", "COMMUNITY")]


def test_a_region_is_in_the_secure_cloud_and_only_there_is_asked() -> None:
    (found,) = candidates(BOTH, GpuWish(20, region="eu"))
    assert (found.name, found.cloud, found.data_centres) == ("RTX 4090", "SECURE", ("EU-RO-1",))
    with pytest.raises(NothingFitsError, match="in stock"):
        candidates(BOTH, GpuWish(20, region="US"))


def test_an_endpoint_takes_pools() -> None:
    found = candidates({None: OFFERS}, GpuWish(20))
    assert [(each.gpu, each.cloud, each.dollars_an_hour) for each in found] == [
        ("POOL_24", None, 0.86),
        ("POOL_24", None, 1.38),
    ]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (GpuWish(100), "the largest is A100, 80 GB, secure cloud, .1.64 an hour"),
        (GpuWish(48), "in stock at present .A100"),
        (GpuWish(20, max_price=0.1), "the cheapest is RTX 4090.*--max-price"),
        (GpuWish(20, gpu="H100"), "no GPU 'H100'"),
        (GpuWish(20, region="AP"), "lists no GPU there"),
    ],
)
def test_where_nothing_fits_it_is_said_what_is_in_the_way(wish: GpuWish, said: str) -> None:
    with pytest.raises(NothingFitsError, match=said):
        candidates(BOTH, wish)


def test_a_volume_ties_candidates_to_its_data_centre() -> None:
    found = candidates(BOTH, GpuWish(20))
    assert [(each.name, each.cloud, each.data_centres) for each in limited(found, "EU-RO-1")] == [
        ("RTX 4090", "SECURE", ("EU-RO-1",))
    ]
    with pytest.raises(NothingFitsError, match="US-KS-2"):
        limited([replace(each, stock_in=()) for each in found], "US-KS-2")


def test_memory_comes_from_the_file_else_the_name_else_what_is_asked(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    file = folder / "unet" / "mine.safetensors"
    file.parent.mkdir()
    with file.open("wb") as out:
        out.truncate(10 * 10**9)
    assert memory_need(None, "mine.safetensors", [folder]).gigabytes == pytest.approx(14.5)
    assert memory_need(None, str(file)).gigabytes == pytest.approx(14.5)
    assert memory_need(None, "flux1-dev-fp8.safetensors").gigabytes == pytest.approx(16.7, abs=0.1)
    assert memory_need(None, "flux1-dev.safetensors").gigabytes > 30 > memory_need(None, None).gigabytes
    assert memory_need(48, "flux1-dev.safetensors").gigabytes == 48
    for unknown in ("something.safetensors", "../../mine.safetensors"):
        with pytest.raises(ConfigError, match="--memory"):
            memory_need(None, unknown, [folder])


def test_only_names_of_ours_are_ours() -> None:
    name = new_name()
    assert our_name(name) == our_name(f"{name} -fb") == name
    assert new_name() != name
    for other in (
        "comfy-gpu-offload",
        "comfy-gpu-offload-mine",
        f"{name}0",
        f"my-{name}",
        "comfy-gpu-offload-1234",
    ):
        assert our_name(other) is None
