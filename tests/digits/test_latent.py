import pytest
import torch

from comfy_gpu_offload.digits import latent


def pictures(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 32, 32, generator=torch.Generator().manual_seed(1))


def test_decode_undoes_encode() -> None:
    original = pictures()
    encoded = latent.encode(original)
    assert encoded.shape == (3, 16, 8, 8)
    torch.testing.assert_close(latent.decode(encoded), original, rtol=0, atol=1e-6)


def test_a_block_of_pixels_becomes_the_channels_of_one_latent_pixel() -> None:
    picture = torch.zeros(1, 32, 32)
    picture[0, 4 * 2 + 1, 4 * 5 + 3] = 1
    encoded = latent.encode(picture)
    assert encoded[0, 4 * 1 + 3, 2, 5] == 1
    assert (encoded == -1).sum() == encoded.numel() - 1


def test_decode_clamps_and_answers_in_float32() -> None:
    decoded = latent.decode(torch.full((1, 16, 8, 8), 1.5, dtype=torch.bfloat16))
    assert decoded.dtype == torch.float32
    assert torch.equal(decoded, torch.ones(1, 32, 32))
    assert torch.equal(latent.decode(torch.full((1, 16, 8, 8), -9.0)), torch.zeros(1, 32, 32))


def test_process_in_is_sd3s() -> None:
    values = torch.tensor([0.0609, 1.0609, 0.0])
    expected = torch.tensor([0.0, 1.5305, -0.0609 * 1.5305])
    torch.testing.assert_close(latent.process_in(values), expected, rtol=0, atol=1e-7)


def test_process_out_undoes_process_in() -> None:
    values = latent.encode(pictures())
    torch.testing.assert_close(latent.process_out(latent.process_in(values)), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (latent.encode, (32, 32)),
        (latent.encode, (1, 1, 32, 32)),
        (latent.encode, (1, 32, 28)),
        (latent.decode, (1, 4, 8, 8)),
        (latent.decode, (16, 8, 8)),
        (latent.contact_sheet, (1, 8, 8)),
    ],
)
def test_another_shape_is_refused(function: object, shape: tuple[int, ...]) -> None:
    pytest.importorskip("PIL")
    assert callable(function)
    with pytest.raises(ValueError, match=r"must be \[B, "):
        function(torch.zeros(shape))


def test_contact_sheet_lays_out_dark_ink_on_white() -> None:
    pytest.importorskip("PIL")
    shown = torch.zeros(12, 32, 32)
    shown[11] = 1
    sheet = latent.contact_sheet(shown, columns=10, zoom=2, gap=4)
    assert sheet.size == (10 * 68 + 4, 2 * 68 + 4)
    assert sheet.getpixel((2, 2)) == 255
    assert sheet.getpixel((4 + 68 + 32, 4 + 68 + 32)) == 0
    assert sheet.getpixel((4 + 2 * 68 + 32, 4 + 68 + 32)) == 255


def test_contact_sheet_of_nothing_is_refused() -> None:
    pytest.importorskip("PIL")
    with pytest.raises(ValueError, match="one picture at least"):
        latent.contact_sheet(torch.zeros(0, 32, 32))
