"""The parts of a recipe that belong to the pipeline: optimiser, loop and launcher. Importing this
loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How a learning rate moves over a stage; `pipeline.optim.multiplier` gives the factor at every
    step."""

    shape: Literal["constant", "cosine", "linear", "rsqrt", "step"] = "cosine"
    """`cosine` and `linear` go from 1 to `end`; `rsqrt` falls as 1/sqrt(step / timescale); `step`
    is multiplied by `drop` at each of `drops`."""
    end: float = 0.1
    """Factor at the last step of `cosine` and `linear`."""
    warmup_steps: int = 0
    """Linear rise from 0 over the first steps."""
    cooldown_steps: int = 0
    """Linear fall to 0 over the last steps, on top of the shape."""
    timescale: int = 1000
    """Steps that `rsqrt` stays at 1 before it falls."""
    drops: tuple[float, ...] = ()
    """`step`: where it falls, as shares of the stage, for example [0.5, 0.75]."""
    drop: float = 0.1
    """`step`: the factor of one fall."""

    def __post_init__(self) -> None:
        _at_least(
            0, warmup_steps=self.warmup_steps, cooldown_steps=self.cooldown_steps, end=self.end
        )
        _at_least(1, timescale=self.timescale)
        object.__setattr__(self, "drops", tuple(self.drops))
        outside = [share for share in self.drops if not 0 < share < 1]
        if outside or (self.shape == "step") != bool(self.drops):
            raise ConfigError(
                f"schedule.drops: found {list(self.drops)} with shape {self.shape}; expected shares "
                "between 0 and 1 with shape step, none with another"
            )


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Settings of their own for some parameters. What is None stays as it was; where several groups
    say something about a parameter, the last one counts."""

    pattern: str = "*"
    """Glob over the parameter's name, for example `image_encoder.*`."""
    module: str | None = None
    """Only parameters that a module of this class owns itself, for example `LayerNorm2d`."""
    lr: float | None = None
    weight_decay: float | None = None
    depth_scale: float | None = None
    """In place of the factor that `layer_decay` gives."""
    schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        _at_least(0, lr=self.lr, weight_decay=self.weight_decay, depth_scale=self.depth_scale)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its groups and its schedule."""

    lr: float
    """Learning rate of every parameter no group matches."""
    weight_decay: float = 0.1
    """Not applied to biases and the parameters of nn.LayerNorm, unless a group says so."""
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    """The rate is multiplied by this once for every layer above the parameter (`layers_above` of
    the model)."""
    groups: tuple[GroupConfig, ...] = ()
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip: float = 0.1
    """Largest total gradient norm; longer gradients are scaled down to it."""
    average: float = 0.0
    """Decay of a moving average of the weights (0.999 is usual), which is then what the stage hands
    over; 0 keeps none."""

    def __post_init__(self) -> None:
        _at_least(0, lr=self.lr, weight_decay=self.weight_decay)
        if not 0 <= self.average < 1:
            raise ConfigError(f"average: found {self.average}, expected 0 <= average < 1")
        if self.clip <= 0:
            raise ConfigError(f"clip: found {self.clip}, expected a positive gradient norm")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"layer_decay: found {self.layer_decay}, expected more than 0 and at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often the training loop speaks and saves, and what it puts up with."""

    log_every: int = 10
    """Steps between two readings of the losses; the device is not waited for in between."""
    save_every: int = 1000
    """Steps between two checkpoints."""
    save_seconds: float = 600.0
    """A checkpoint is also written when the last one is this old."""
    keep: int = 2
    """Newest checkpoints kept for resuming."""
    keep_every: int = 0
    """A checkpoint of every multiple of so many steps is written and kept for good; 0 for none."""
    keep_best: bool = False
    """A checkpoint is also written where validation finds the best so far, and kept until a better one."""
    mirror: str = ""
    """Folder or URL, such as `s3://bucket/run`, that checkpoints are copied to as well, and fetched
    from where the stage's own folder has none or older ones."""
    unsaved_minutes: float = 60.0
    """Where no checkpoint can be written, training goes on and tries again, and stops when this much
    work would be lost."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    bad_steps: int = 10
    """Steps in a row with a non-finite loss or gradient before training goes back to the weights of
    an earlier checkpoint; each is left out."""
    roll_backs: int = 2
    """How often it does before it stops."""
    hang_seconds: float = 45.0
    """A step's data, forward pass, backward pass, reduction or update that takes longer than this,
    and ten times longer than ever before, hangs: the job ends and says where."""
    start_seconds: float = 1800.0
    """The same for the first five steps, for compiling, going back, and each video of a validation;
    saving has `unsaved_minutes` besides."""

    def __post_init__(self) -> None:
        _at_least(
            1,
            log_every=self.log_every,
            save_every=self.save_every,
            keep=self.keep,
            accumulate=self.accumulate,
            bad_steps=self.bad_steps,
        )
        _at_least(
            0,
            save_seconds=self.save_seconds,
            keep_every=self.keep_every,
            unsaved_minutes=self.unsaved_minutes,
            roll_backs=self.roll_backs,
        )
        if self.mirror.startswith("file://"):
            raise ConfigError(
                f"mirror: found {self.mirror}, expected a folder or the URL of an object store"
            )
        if not 0 < self.hang_seconds <= self.start_seconds:
            raise ConfigError(
                f"hang_seconds: found {self.hang_seconds} with start_seconds={self.start_seconds}, "
                "expected more than 0 and at most start_seconds"
            )


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where the stages of a run are executed."""

    launcher: Literal["inline", "local", "slurm"] = "local"
    """`inline`: in the calling process; `local`: processes of this machine; `slurm`: a batch
    job."""
    nodes: int = 1
    tasks_per_node: int = 1
    """Ranks a node; one for every GPU."""
    gpus_per_node: int | None = None
    """Asked of SLURM; None leaves the request out."""
    threads: int | None = None
    """CPU threads a rank computes with; None shares this machine's cores out."""
    cpus: int | None = None
    """CPUs asked of SLURM for a rank and its data workers; None asks for `threads`."""
    ram_gb: int | None = None
    """Main memory asked of SLURM for each node; None leaves it to the partition. A job of one task
    asks for its share."""
    timeout_minutes: int = 1440
    """Time limit of a SLURM job; it saves and requeues itself shortly before."""
    signal_seconds: int = 120
    """How long before the time limit SLURM tells the job to save; SLURM may be a minute early."""
    partition: str | None = None
    cpu_partition: str | None = None
    """Partition of the stages that need no GPU, without the `constraint`; None: the same."""
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features the nodes need, for example `h100|a100`."""
    exclude: str | None = None
    """Nodes not to use, for example `gpu[03,07]`."""
    slurm: dict[str, str | int | bool] = field(default_factory=dict)
    """Further `#SBATCH` parameters by name: {reservation: sam2, exclusive: true}."""
    setup: tuple[str, ...] = ()
    """Shell lines run in a SLURM job before Python starts: `module load cuda`."""
    python: str | None = None
    """The interpreter of a SLURM job, for example that of a conda environment; None: this one, or
    `python` of the container."""
    container: str | None = None
    """Image a SLURM job runs in: a `.sif` file with apptainer, anything else with pyxis."""
    mounts: tuple[str, ...] = ()
    """Folders the container sees, `/here:/there`: the code, the runs folder and the data."""
    shards: int = 1
    """Jobs that share out a stage whose work falls into parts, as frame extraction does: one SLURM
    array, or local processes."""
    parallel: int | None = None
    """Shards that run at once; None: all of them under SLURM, one a core on this machine."""
    stop_seconds: float = 10.0
    """How long a job may take to save and end when it is asked to stop, before it is killed."""
    poll_seconds: float = 0.5
    """Pause between two looks at a running local job; SLURM is asked every 15 seconds."""
    orphan: Literal["auto", "stop", "continue"] = "auto"
    """What a job does when the process that launched it has died: save and end, or go on and be
    joined by the next launch. `auto`: a local job ends, a SLURM job goes on."""

    @property
    def leased(self) -> bool:
        """Whether a job ends with the process that launched it."""
        return self.orphan == "stop" or (self.orphan == "auto" and self.launcher == "local")

    def __post_init__(self) -> None:
        _at_least(
            1,
            nodes=self.nodes,
            tasks_per_node=self.tasks_per_node,
            timeout_minutes=self.timeout_minutes,
            signal_seconds=self.signal_seconds,
            shards=self.shards,
            threads=self.threads,
            cpus=self.cpus,
            ram_gb=self.ram_gb,
            parallel=self.parallel,
        )
        _at_least(
            0,
            gpus_per_node=self.gpus_per_node,
            stop_seconds=self.stop_seconds,
            poll_seconds=self.poll_seconds,
        )
        if self.mounts and not self.container:
            raise ConfigError(
                f"mounts: found {list(self.mounts)} without a container; expected container=IMAGE"
            )
        if self.launcher == "slurm" and self.signal_seconds >= 60 * self.timeout_minutes:
            raise ConfigError(
                f"signal_seconds: found {self.signal_seconds}, expected less than the time limit, "
                f"timeout_minutes={self.timeout_minutes}"
            )
        if self.launcher != "slurm" and self.nodes > 1:
            raise ConfigError(
                f"nodes: found {self.nodes} with launcher={self.launcher}, expected 1 (or slurm)"
            )
        if self.launcher == "inline" and self.tasks_per_node > 1:
            raise ConfigError(
                f"tasks_per_node: found {self.tasks_per_node} with launcher=inline, "
                "expected 1 (or local)"
            )


def _at_least(least: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"{name}: found {value}, expected {least} or more")
