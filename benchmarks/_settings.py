"""What is trained where: a setting (data, noise, PEFT method), and a cell, one run in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from _loading import NO_NOISE, REAL_NOISE, check_noise

from hf_clear.noise import NOISE_TYPES
from hf_clear.runs import default_learning_rate
from hf_clear.runs.training_arguments import FULL_FINE_TUNING
from hf_clear.tuners import PEFT_METHODS


@dataclass(frozen=True)
class Setting:
    """Data, noise and PEFT method.

    Attributes:
        data (`str`): `NAME` or `NAME@N`, see `_loading.DATA_SETS`.
        noise_type (`str`): a name in `NOISE_TYPES`, `"none"`, or `"real"` for labels that come with wrong ones.
        noise_rate (`float`, *optional*): 0 for `"none"`; None for `"real"`, whose rate is as it is.
        peft_method (`str`): a name in `PEFT_METHODS`, or `"none"` for full fine-tuning.
    """

    data: str
    noise_type: str
    noise_rate: float | None
    peft_method: str = "lora"

    def __post_init__(self):
        """
        Raises:
            ValueError: if a value is unknown or out of its range, or the data can't have the noise.
        """
        if self.noise_type not in (NO_NOISE, REAL_NOISE):
            NOISE_TYPES.find(self.noise_type, "noise_type")
            if self.noise_rate is None or not 0 <= self.noise_rate <= 1:
                raise ValueError(f"A noise rate is a probability, in [0, 1]; got {self.noise_rate}.")
            if self.noise_rate == 0:
                object.__setattr__(self, "noise_type", NO_NOISE)  # one name for the same labels
        check_noise(self.data, self.noise_type)
        if self.peft_method != FULL_FINE_TUNING:
            PEFT_METHODS.find(self.peft_method, "peft_method")
        if self.noise_type in (NO_NOISE, REAL_NOISE):
            object.__setattr__(self, "noise_rate", 0.0 if self.noise_type == NO_NOISE else None)

    @classmethod
    def parse(cls, text: str) -> Setting:
        """`"banking77-20:symmetric:0.6"`, `"noisyagnews@2000:real"`, `"sst5@4000:none"`; as you like with `:adapter` or
        another PEFT method at the end.

        Raises:
            ValueError: if it is none.
        """
        data, *noise = text.split(":")
        count = 1 if noise and noise[0] in (NO_NOISE, REAL_NOISE) else 2
        try:
            rate = float(noise[1]) if count == 2 else None
            return cls(data, noise[0], rate, *noise[count : count + 2])
        except (IndexError, TypeError, ValueError) as error:
            why = error if isinstance(error, ValueError) else "write DATA:NOISE_TYPE:RATE or DATA:NOISE_TYPE:RATE:PEFT"
            raise ValueError(f"{text!r} is no setting: {why}") from error


@dataclass(frozen=True)
class Cell:
    """The coordinates of one run. The seed is that of the noise too: cells that differ in `method`, `peft_method`,
    `epochs` and `learning_rate` alone see the same labels."""

    model: str
    data: str
    noise_type: str
    noise_rate: float | None
    seed: int
    peft_method: str | None  # None for what has no PEFT method, as are `epochs` and `learning_rate`
    epochs: int | None
    method: str
    learning_rate: float | None = None
    scored_on: str = "test"  # or "validation": a tenth of the noisy training set, held out
    bf16: bool = False  # mixed precision

    @classmethod
    def of_line(cls, line: dict[str, Any]) -> Cell:
        """The cell of a line of results.jsonl; what a line from before a coordinate lacks is what it was then.

        Raises:
            KeyError: if the line lacks another.
        """
        known = {field.name: line[field.name] for field in dataclasses.fields(cls) if field.name in line}
        if "learning_rate" not in known and known["peft_method"] is not None:
            known["learning_rate"] = default_learning_rate(known["peft_method"])
        if known["noise_rate"] == 0:
            known["noise_type"] = NO_NOISE
        return cls(**known)

    def __str__(self) -> str:
        """For reading; the test set and the learning rate that suits go without saying."""
        values = dataclasses.asdict(self)
        if self.peft_method is not None and self.learning_rate == default_learning_rate(self.peft_method):
            values["learning_rate"] = None
        if self.scored_on == "test":
            values["scored_on"] = None
        values["bf16"] = "bf16" if self.bf16 else None
        return " ".join(str(value) for value in values.values() if value is not None)
