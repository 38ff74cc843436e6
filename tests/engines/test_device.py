from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path

import pytest
import torch

from shared.errors import (
    Cancelled,
    GenerationFailed,
    NodeFault,
    OutOfMemory,
    SettingsError,
    WorkerError,
)
from workers.engines import device
from workers.engines.device import (
    cpu_generators,
    device_name,
    has_bfloat16,
    passing_through,
    resolve_device,
    resolve_dtype,
    run_once_per_step,
    translated_errors,
    translated_load_errors,
)

CPU = torch.device("cpu")
CARD = torch.device("cuda", 0)

DRIVER_TEXTS = {
    "550.54.14": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n",
    "570.124.06": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (builder)\n"
    ),
    "580.65.06": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\n",
}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(device, "DRIVER_VERSION_FILE", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path / "version"


# --- device ------------------------------------------------------------------------------------------


def test_auto_is_the_cpu_on_a_machine_without_an_nvidia_driver(driver: Path) -> None:
    assert not driver.exists()
    assert resolve_device("auto") == CPU


@pytest.mark.parametrize("setting", ["cpu", " CPU "])
def test_cpu_is_taken_at_its_word_even_where_there_is_a_card(setting: str, driver: Path) -> None:
    driver.write_text(DRIVER_TEXTS["580.65.06"])
    assert resolve_device(setting) == CPU


@pytest.mark.parametrize("setting", ["tpu", "cuda:x", "gpu", ""])
def test_an_unknown_device_is_refused_with_what_may_be_set(setting: str) -> None:
    with pytest.raises(SettingsError, match="auto, cpu, cuda or cuda:N"):
        resolve_device(setting)


@pytest.mark.parametrize("setting", ["auto", "cuda"])
@pytest.mark.parametrize("version", ["550.54.14", "570.124.06"])
def test_a_driver_too_old_is_named_with_the_cuda_version_that_needs_a_newer_one(
    setting: str, version: str, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text(DRIVER_TEXTS[version])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(SettingsError) as caught:
        resolve_device(setting)
    assert version in str(caught.value)
    assert "CUDA 13.0" in str(caught.value)
    assert "580.65 or newer" in str(caught.value)


def test_a_driver_new_enough_for_an_older_cuda_is_not_called_too_old(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text(DRIVER_TEXTS["550.54.14"])
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(SettingsError, match=r"finds no card behind the NVIDIA driver 550\.54\.14"):
        resolve_device("auto")


def test_a_torch_without_cuda_beside_a_driver_is_an_error_and_no_quiet_fall_back(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text(DRIVER_TEXTS["580.65.06"])
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(SettingsError, match=r"built without CUDA \(NVIDIA driver: 580\.65\.06\)"):
        resolve_device("auto")


def test_cuda_without_a_driver_says_how_the_container_gets_its_card(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(SettingsError, match="--gpus all"):
        resolve_device("cuda:1")


def test_a_card_beyond_the_last_is_refused(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingsError, match="only 2 cards"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA error: no kernel image is available for execution on the device", SettingsError),
        ("CUDA error: an illegal memory access was encountered", NodeFault),
    ],
)
def test_a_card_is_tried_before_it_is_taken(
    text: str, kind: type[WorkerError], driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.AcceleratorError(text)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(kind):
        resolve_device("cuda")


def test_the_processor_is_named_where_there_is_no_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CPU_INFO_FILE", tmp_path / "cpuinfo")
    assert device_name(CPU) == "CPU"
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: AMD EPYC 9354\nmodel\t\t: 17\n")
    assert device_name(CPU) == "AMD EPYC 9354"


# --- dtype -------------------------------------------------------------------------------------------


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The card's compute capability, Ampere's until a test changes it."""
    value = [(8, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: value[0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    return value


def test_auto_is_float32_on_the_cpu_and_the_engines_choice_on_a_card(
    capability: list[tuple[int, int]],
) -> None:
    assert resolve_dtype("auto", CPU) is torch.float32
    assert resolve_dtype("auto", CARD) is torch.float16
    assert resolve_dtype("auto", CARD, "bfloat16") is torch.bfloat16


def test_a_card_without_bfloat16_gets_float16_by_itself_and_refuses_bfloat16_when_told(
    capability: list[tuple[int, int]],
) -> None:
    capability[0] = (7, 5)
    assert not has_bfloat16(CARD)
    assert resolve_dtype("auto", CARD, "bfloat16") is torch.float16
    with pytest.raises(SettingsError, match="Tesla T4 only emulates"):
        resolve_dtype("bf16", CARD)


@pytest.mark.parametrize("setting", ["bfloat16", "bf16", " BF16 "])
def test_the_usual_spellings_of_a_dtype_are_read(setting: str) -> None:
    assert resolve_dtype(setting, CPU) is torch.bfloat16


@pytest.mark.parametrize("setting", ["fp8", "", "torch.float32"])
def test_an_unknown_dtype_is_refused_with_what_may_be_set(setting: str) -> None:
    with pytest.raises(SettingsError, match="auto, float16, bfloat16 or float32"):
        resolve_dtype(setting, CPU)


def test_float16_is_refused_on_the_cpu() -> None:
    with pytest.raises(SettingsError, match="only cards calculate in"):
        resolve_dtype("fp16", CPU)


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            OutOfMemory,
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            OutOfMemory,
        ),
        (MemoryError(), OutOfMemory),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), NodeFault),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), NodeFault),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), NodeFault),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), GenerationFailed),
        (ValueError("a red boat"), GenerationFailed),
        (KeyError("sample"), GenerationFailed),
    ],
)
def test_every_exception_of_the_libraries_becomes_one_of_ours(
    error: Exception, kind: type[WorkerError]
) -> None:
    with pytest.raises(WorkerError) as caught, translated_errors():
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_a_real_failure_of_the_allocator_is_out_of_memory() -> None:
    with pytest.raises(OutOfMemory), translated_errors():
        torch.empty(2**60)


def test_the_customers_sentence_quotes_nothing_of_the_libraries_error() -> None:
    with pytest.raises(GenerationFailed) as caught, translated_errors("The video"):
        raise ValueError("a red boat on a lake")
    assert "boat" not in str(caught.value)
    assert str(caught.value).startswith("The video ")


def test_our_own_errors_pass_untouched() -> None:
    ours = Cancelled("stop")
    with pytest.raises(Cancelled) as caught, translated_errors():
        raise ours
    assert caught.value is ours


@pytest.mark.parametrize(
    "error", [Cancelled("stop"), KeyError("a bug of the caller"), RuntimeError("out of memory")]
)
def test_what_the_step_callback_raises_passes_libraries_that_catch_everything(error: Exception) -> None:
    def on_step(step: int, total: int) -> None:
        raise error

    def library() -> None:
        with contextlib.suppress(Exception):
            passing_through(on_step)(1, 2)
        pytest.fail("the library saw it")

    with pytest.raises(type(error)) as caught, translated_errors():
        library()
    assert caught.value is error


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError(), ValueError("a fault in the model")])
def test_a_failed_call_lets_go_of_its_tensors_while_the_error_lives(failure: Exception) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def call() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise failure

    with pytest.raises((OutOfMemory, GenerationFailed)) as caught, translated_errors():
        call()
    gc.collect()
    assert caught.value.__cause__ is not None
    assert held[0]() is None


def test_a_checkpoint_that_does_not_load_is_a_setting_at_fault() -> None:
    model = translated_load_errors("WAN_MODEL", "x")
    with pytest.raises(SettingsError, match="WAN_MODEL is x, which cannot be loaded: KeyError"), model:
        raise KeyError("conv_in.weight")
    model = translated_load_errors("WAN_MODEL", "x")
    with pytest.raises(SettingsError, match="needs more memory than the device has free"), model:
        raise torch.OutOfMemoryError
    model = translated_load_errors("WAN_MODEL", "x")
    with pytest.raises(NodeFault), model:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")


# --- tensors and steps -------------------------------------------------------------------------------


def test_each_seed_has_a_generator_of_its_own_on_the_cpu() -> None:
    first, second = cpu_generators([0, 2**53])
    assert (first.initial_seed(), second.initial_seed()) == (0, 2**53)
    assert first.device == CPU


def test_diffusers_steps_from_0_are_reported_from_1() -> None:
    seen: list[tuple[int, int]] = []
    callback = run_once_per_step(lambda step, total: seen.append((step, total)), 3)
    tensors = {"latents": "unchanged"}
    assert callback(None, 0, None, tensors) is tensors
    callback(None, 2, None, {})
    assert seen == [(1, 3), (3, 3)]
