"""The log-mel spectrogram on the device, from the numbers of a model's front end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from musictagger.audio.frontend import FrontEnd


class LogMel(nn.Module):
    """Wave to log-mel, as librosa computes it (Slaney mel and norm unless the card says otherwise)."""

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        self._mel = MelSpectrogram(
            sample_rate=front_end.sample_rate_hz,
            n_fft=front_end.n_fft,
            hop_length=front_end.hop_samples,
            f_min=front_end.f_min_hz,
            f_max=front_end.f_max_hz,
            n_mels=front_end.n_mels,
            power=2.0,
            norm=front_end.mel_norm,
            mel_scale=front_end.mel_scale,
            pad_mode=front_end.pad_mode,
        )

    def forward(self, wave: Tensor) -> Tensor:
        """Wave float32 [batch, samples] at the front end's rate -> mel float32 [batch, n_mels, columns]."""
        mel = self._mel(wave)
        compressed = self._db(mel) if self.front_end.compression == "db" else self._log1p(mel)
        return _standardise(compressed) if self.front_end.standardise else compressed

    def _db(self, mel: Tensor) -> Tensor:
        front_end = self.front_end
        decibel = 10.0 * torch.log10(torch.clamp(mel**front_end.mel_exponent, min=front_end.amin))
        # The maximum is each frame's own, so a score never depends on what shares its batch.
        loudest = decibel.amax(dim=(-2, -1), keepdim=True)
        if front_end.top_db is not None:
            decibel = torch.maximum(decibel, loudest - front_end.top_db)
        return decibel - loudest if front_end.reference == "max" else decibel

    def _log1p(self, mel: Tensor) -> Tensor:
        return torch.log10(1.0 + self.front_end.gain * mel)


def _standardise(mel: Tensor) -> Tensor:
    mean = mel.mean(dim=(-2, -1), keepdim=True)
    deviation = mel.std(dim=(-2, -1), keepdim=True, correction=0)
    return (mel - mean) / deviation.clamp(min=1e-8)
