"""Where a model runs, in which numbers, and what the device's failures mean.

torch is imported inside the functions: whoever only asks for `--help` does not wait for it.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.errors import GenerationFailed, NodeFault, OutOfMemory, SettingsError, WorkerError
from workers.engines.base import StepCallback

if TYPE_CHECKING:
    import torch

DRIVER_VERSION_FILE: Final = Path("/proc/driver/nvidia/version")
CPU_INFO_FILE: Final = Path("/proc/cpuinfo")

MINIMUM_DRIVERS: Final = {11: "450.80", 12: "525.60", 13: "580.65"}
"""First NVIDIA driver for Linux that runs programs of a CUDA major version (CUDA release notes, table
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""

_DTYPES: Final = {
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float32": "float32",
    "fp32": "float32",
}

# torch has one class for "the allocator found no block"; the libraries below it only have texts.
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|can't allocate memory|not enough memory|(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
)
_DEVICE_FAULT: Final = re.compile(
    r"CUDA error|CUDA driver error|cuDNN error|CUDNN_STATUS_|CUBLAS_STATUS_|CUDA-capable device|"
    r"CUDA kernel errors|Triton Error \[CUDA\]|device-side assert"
)


# --- device and dtype --------------------------------------------------------------------------------


def resolve_device(setting: str) -> torch.device:
    """The device that `DEVICE` asks for: `auto`, `cpu`, `cuda` or `cuda:N`.

    `auto` means CUDA wherever the machine has an NVIDIA driver. Where torch cannot use it that is an error:
    a pod that is paid for its card must not fall back to its processor in silence.

    Raises `SettingsError` where the device is not there, with the versions of the driver and of CUDA, and
    `NodeFault` where the card is there and does not answer.
    """
    import torch

    wanted = setting.strip().lower()
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted != "auto" and not re.fullmatch(r"cuda(:\d+)?", wanted):
        raise SettingsError([f'DEVICE is "{setting}"; set it to auto, cpu, cuda or cuda:N.'])
    driver = _driver_version()
    if torch.cuda.is_available():
        return _usable_card(0 if wanted in ("auto", "cuda") else int(wanted.removeprefix("cuda:")), driver)
    if wanted == "auto" and driver is None:
        return torch.device("cpu")
    raise SettingsError([f"DEVICE is {wanted}, but {_why_no_cuda(driver, torch.version.cuda)}"])


def _usable_card(index: int, driver: str | None) -> torch.device:
    import torch

    count = torch.cuda.device_count()
    if index >= count:
        raise SettingsError([f"DEVICE is cuda:{index}, but there are only {count} cards, counted from 0."])
    device = torch.device("cuda", index)
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        if "no kernel image" not in str(error):
            raise NodeFault(f"{device} does not answer: {_first_line(error)}") from error
        card = torch.cuda.get_device_name(device)
        raise SettingsError(
            [
                f"DEVICE is {device} ({card}, driver {driver or 'unknown'}), but this torch was built for"
                f" CUDA {torch.version.cuda} without code for that card; install another build of torch"
                " (the CUDA build argument of Dockerfile.gpu)."
            ]
        ) from error
    return device


def _driver_version() -> str | None:
    """Version of the NVIDIA kernel driver, None where there is none."""
    try:
        text = DRIVER_VERSION_FILE.read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\D*?(?:for x86_64|for aarch64)?\s+(\d+\.\d+(?:\.\d+)?)", text)
    return found.group(1) if found else "of unknown version"


def _why_no_cuda(driver: str | None, cuda: str | None) -> str:
    """The end of the sentence "DEVICE is …, but". `driver` and `cuda` are versions, None where absent."""
    if cuda is None:
        return (
            f"this torch was built without CUDA (NVIDIA driver: {driver or 'none'}); install a CUDA build of"
            " torch, or set DEVICE=cpu."
        )
    if driver is None:
        return (
            f"this torch was built for CUDA {cuda} and the machine shows no NVIDIA driver; start the"
            " container with its card (--gpus all), or set DEVICE=cpu."
        )
    minimum = MINIMUM_DRIVERS.get(int(cuda.split(".")[0]))
    if minimum is not None and _numbers(driver) < _numbers(minimum):
        return (
            f"the NVIDIA driver {driver} is too old for CUDA {cuda}, which this torch was built for and which"
            f" needs driver {minimum} or newer; take a pod with a newer driver, or a torch built for an older"
            " CUDA (the CUDA build argument of Dockerfile.gpu)."
        )
    return (
        f"torch for CUDA {cuda} finds no card behind the NVIDIA driver {driver}; look at CUDA_VISIBLE_DEVICES"
        " and nvidia-smi, or set DEVICE=cpu."
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def resolve_dtype(setting: str, device: torch.device, auto_on_cuda: str = "float16") -> torch.dtype:
    """The numbers that `DTYPE` asks for: `auto`, or `float16`, `bfloat16`, `float32` (also fp16, bf16, fp32).

    `auto` is float32 on the CPU and `auto_on_cuda` on CUDA; a card without bfloat16 gets float16 in its
    place. Raises `SettingsError` where the device cannot calculate in what is stated.
    """
    import torch

    wanted = setting.strip().lower()
    on_cuda = device.type == "cuda"
    if wanted == "auto":
        chosen: torch.dtype = getattr(torch, auto_on_cuda) if on_cuda else torch.float32
        return torch.float16 if on_cuda and chosen is torch.bfloat16 and not has_bfloat16(device) else chosen
    if wanted not in _DTYPES:
        raise SettingsError([f'DTYPE is "{setting}"; set it to auto, float16, bfloat16 or float32.'])
    dtype: torch.dtype = getattr(torch, _DTYPES[wanted])
    if dtype is torch.float16 and not on_cuda:
        raise SettingsError(
            ["DTYPE is float16, which only cards calculate in; set it to bfloat16 or float32."]
        )
    if dtype is torch.bfloat16 and not has_bfloat16(device):
        raise SettingsError(
            [f"DTYPE is bfloat16, which {device_name(device)} only emulates; set it to float16."]
        )
    return dtype


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device calculates in bfloat16 itself: every CPU, and cards since Ampere (8.0)."""
    import torch

    return device.type == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)


def device_name(device: torch.device) -> str:
    """The card's name, or the model of the processor."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^(?:model name|Model)\s*:\s*(\S.*)$", CPU_INFO_FILE.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else "CPU"


def limit_memory(device: torch.device, memory_gb: float | None) -> None:
    """Keep torch's allocator within `memory_gb` GiB of the card, so that it can be shared.

    None leaves all of it; on the CPU there is nothing to limit. Raises `SettingsError` above the card's size.
    """
    import torch

    if memory_gb is None or device.type != "cuda":
        return
    total_gb = torch.cuda.get_device_properties(device).total_memory / 2**30
    if not 0 < memory_gb <= total_gb:
        raise SettingsError(
            [f"GPU_MEMORY_GB is {memory_gb:g}; {device_name(device)} has {total_gb:.1f}: set at most that."]
        )
    torch.cuda.set_per_process_memory_fraction(memory_gb / total_gb, device)


def allocator_options(device: torch.device) -> str:
    """How torch's allocator for cards was told to work; it is used on cards alone."""
    if device.type != "cuda":
        return "system"
    return os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or "default"


def free_cached_memory(device: torch.device) -> None:
    """Give the blocks that torch's allocator keeps back to the device, after it ran out of memory."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# --- errors ------------------------------------------------------------------------------------------


class _FromCallback(BaseException):
    """Carries an exception of the step callback through the libraries.

    Not an `Exception`, so that no handler of theirs holds it up.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def passing_through(on_step: StepCallback) -> StepCallback:
    """`on_step` in a form whose exceptions leave `translated_errors` as they are, whatever their class."""

    def call(step: int, total: int) -> None:
        try:
            on_step(step, total)
        except Exception as error:
            raise _FromCallback(error) from error

    return call


@contextmanager
def translated_errors(subject: str = "The picture") -> Iterator[None]:
    """The one seam between the model libraries' exceptions and this project's.

    - running out of memory, on the card or in main memory, becomes `OutOfMemory`;
    - a broken CUDA context becomes `NodeFault`, because every later call in this process fails too;
    - whatever else the libraries raise becomes `GenerationFailed`.

    `WorkerError`s and what a callback wrapped by `passing_through` raised leave as they are. `subject` begins
    the sentence that a customer reads. The sentence quotes nothing: texts of the libraries may hold the
    prompt; the cause is chained for those who may see it.
    """
    from_callback: Exception | None = None
    try:
        yield
    except WorkerError:
        raise
    except _FromCallback as carrier:
        from_callback = carrier.error
    # Broad because the libraries raise anything: this is where their exceptions end.
    except Exception as error:
        # The frames of the failed call hold its tensors, which a second try with less, or the next job, needs
        # back while somebody still looks at the error.
        traceback.clear_frames(error.__traceback__)
        raise _translate(error, subject) from error
    if from_callback is not None:
        raise from_callback


def _translate(error: Exception, subject: str) -> WorkerError:
    import torch

    text = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(text)
    ):
        return OutOfMemory(f"{subject} needs more memory than this worker has; try a smaller one.")
    if isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and _DEVICE_FAULT.search(text)
    ):
        return NodeFault(f"the device failed: {_first_line(error)}")
    return GenerationFailed(f"{subject} could not be generated because of a fault in the model.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def translated_load_errors(setting: str, model: str) -> Iterator[None]:
    """The seam around loading a checkpoint, which is named by the setting `setting` with the value `model`.

    A broken CUDA context becomes `NodeFault`; everything else is the checkpoint's or the setting's fault and
    becomes `SettingsError`.
    """
    try:
        yield
    except WorkerError:
        raise
    # Broad because the libraries raise anything on a checkpoint that is not what they expect.
    except Exception as error:
        translated = _translate(error, model)
        if isinstance(translated, NodeFault):
            raise translated from error
        problem = (
            f"{setting} is {model}, which needs more memory than the device has free."
            if isinstance(translated, OutOfMemory)
            else f"{setting} is {model}, which cannot be loaded: {type(error).__name__}: {_first_line(error)}"
        )
        raise SettingsError([problem]) from error


def quiet_libraries() -> None:
    """Keep the model libraries' warnings and progress bars out of the log.

    Their warnings may quote the prompt. Called before their pipelines are imported, which warns too.
    """
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


# --- tensors -----------------------------------------------------------------------------------------


def cpu_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator a seed, on the CPU: the same start noise on every card."""
    import torch

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def run_once_per_step(
    on_step: StepCallback, total: int
) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """`on_step` as diffusers calls `callback_on_step_end`: its `step` counts from 0, ours from 1."""
    call = passing_through(on_step)

    def callback(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        call(step + 1, total)
        return tensors

    return callback
