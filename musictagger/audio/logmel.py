"""The log-mel spectrogram on the device, with the parameters of a model's front end."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchaudio.transforms import Spectrogram

from musictagger.audio.frontend import FrontEnd


class LogMel(nn.Module):
    """Wave to log-mel spectrogram, as librosa computes it; Slaney mel scale and norm unless the card differs."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        self._power = Spectrogram(
            n_fft=front_end.n_fft, hop_length=front_end.hop_samples, power=2.0, pad_mode=front_end.pad_mode
        )
        self._filters: Tensor
        self.register_buffer("_filters", mel_filters(front_end).float(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Wave float32 [batch, samples] at the front end's rate -> mel float32 [batch, n_mels, columns]."""
        return self.normalise(self.spectrogram(wave))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """Wave float32 [batch, samples] -> mel in dB or log1p, float32 [batch, n_mels, columns], not normalised.

        A column depends on one window of samples only, so a whole track may be computed first and cut into frames
        later.
        """
        front_end = self.front_end
        mel = self._filters @ self._power(wave)
        if front_end.compression == "log1p":
            return torch.log10(1.0 + front_end.gain * mel)
        return 10.0 * torch.log10(torch.clamp(mel**front_end.mel_exponent, min=front_end.amin))

    def normalise(self, mel: Tensor) -> Tensor:
        """Apply to `spectrogram` what depends on a whole frame: range, reference level, standard deviation."""
        front_end = self.front_end
        if front_end.compression == "db":
            # The maximum is each frame's own, so a score never depends on the other frames in its batch.
            loudest = mel.amax(dim=(-2, -1), keepdim=True)
            if front_end.top_db is not None:
                mel = torch.maximum(mel, loudest - front_end.top_db)
            if front_end.reference == "max":
                mel = mel - loudest
        if not front_end.standardise:
            return mel
        mean = mel.mean(dim=(-2, -1), keepdim=True)
        deviation = mel.std(dim=(-2, -1), keepdim=True, correction=0)
        return (mel - mean) / deviation.clamp(min=1e-8)


def mel_filters(front_end: FrontEnd) -> Tensor:
    """Return the triangular filters from power per FFT bin to mel bands: float64 [n_mels, n_fft // 2 + 1].

    torchaudio computes its filters in float32, which changed bands beside a pure tone by up to 0.005 dB.
    """
    edges_hz = band_edges_hz(front_end)[:, None]
    left, middle, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    bins_hz = torch.linspace(0, front_end.sample_rate_hz / 2, front_end.n_fft // 2 + 1, dtype=torch.float64)
    rising, falling = (bins_hz - left) / (middle - left), (right - bins_hz) / (right - middle)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return triangles * 2 / (right - left) if front_end.mel_norm == "slaney" else triangles


def band_edges_hz(front_end: FrontEnd) -> Tensor:
    """Return where the filters begin, peak and end: float64 [n_mels + 2]; band i peaks at index i + 1."""
    f_max_hz = front_end.f_max_hz or front_end.sample_rate_hz / 2
    to_mel, to_hz = _SCALES[front_end.mel_scale]
    low, high = to_mel(torch.tensor([front_end.f_min_hz, f_max_hz], dtype=torch.float64)).tolist()
    return to_hz(torch.linspace(low, high, front_end.n_mels + 2, dtype=torch.float64))


# Slaney's scale (Auditory Toolbox): 3 mel per 200 Hz up to 1 kHz, from there 27 mel for a factor of 6.4.
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_MEL_PER_E = 27 / math.log(6.4)


def _slaney_mel(hz: Tensor) -> Tensor:
    above = _BREAK_MEL + _MEL_PER_E * torch.log(hz.clamp(min=_BREAK_HZ) / _BREAK_HZ)
    return torch.where(hz < _BREAK_HZ, hz * 3 / 200, above)


def _slaney_hz(mel: Tensor) -> Tensor:
    above = _BREAK_HZ * torch.exp((mel - _BREAK_MEL) / _MEL_PER_E)
    return torch.where(mel < _BREAK_MEL, mel * 200 / 3, above)


def _htk_mel(hz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hz / 700)


def _htk_hz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)


_SCALES = {"slaney": (_slaney_mel, _slaney_hz), "htk": (_htk_mel, _htk_hz)}
