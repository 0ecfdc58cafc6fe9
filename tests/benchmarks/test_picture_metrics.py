from __future__ import annotations

import pytest
import torch


def test_equal_pictures_are_alike_and_have_no_psnr() -> None:
    from picture_metrics import psnr_db, ssim

    pictures = torch.rand(3, 32, 32)
    assert psnr_db(pictures, pictures) is None
    assert ssim(pictures, pictures) == pytest.approx(1)


def test_an_error_of_a_tenth_is_20_db() -> None:
    from picture_metrics import psnr_db

    assert psnr_db(torch.full((2, 16, 16), 0.6), torch.full((2, 16, 16), 0.5)) == pytest.approx(20, abs=1e-4)


def test_flat_pictures_are_compared_by_luminance_alone() -> None:
    from picture_metrics import ssim

    a, b = torch.full((1, 16, 16), 0.2, dtype=torch.float64), torch.full((1, 16, 16), 0.8, dtype=torch.float64)
    assert ssim(a, b) == pytest.approx((2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4))


def test_a_negative_is_unlike_and_noise_makes_pictures_less_alike() -> None:
    from picture_metrics import ssim

    pictures = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(1))
    assert ssim(1 - pictures, pictures) < -0.8
    assert ssim(0.9 * pictures + 0.1 * noise, pictures) > ssim(0.5 * pictures + 0.5 * noise, pictures)


def test_pictures_smaller_than_the_window_are_refused() -> None:
    from picture_metrics import ssim

    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 10, 32), torch.zeros(1, 10, 32))
