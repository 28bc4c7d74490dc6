"""Reads a Dockerfile into instructions and tells what is wrong with it; stands in for a build where there is none."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TARGETS = ("cpu", "cuda")
SECRET_NAMES = re.compile(r"\w*(?:KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL)\w*", re.IGNORECASE)
HOST = re.compile(r"https?://|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|io|org|net|dev)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction, its continuation lines joined by spaces; `stage` is "" before the first FROM."""

    stage: str
    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """The file as a list of instructions, without comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: list[Instruction] = []
    stage = ""
    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split()[-1] if " AS " in rest else rest
        found.append(Instruction(stage=stage, word=word, rest=" ".join(rest.split())))
    return found


def dockerfile_problems(text: str) -> list[str]:
    """Everything the rules say against a Dockerfile; empty when nothing."""
    read = instructions(text)
    return [problem for rule in RULES for problem in rule(read)]


def parents(read: list[Instruction]) -> dict[str, str]:
    """Stage name to the stage or image it begins from, build arguments filled in."""
    defaults = dict(i.rest.split("=", 1) for i in read if i.word == "ARG" and "=" in i.rest)
    filled = {
        i.stage: re.sub(r"\$\{(\w+)\}", lambda m: defaults.get(m[1], m[0]), i.rest) for i in read if i.word == "FROM"
    }
    return {stage: rest.split()[0] for stage, rest in filled.items()}


def lineage(read: list[Instruction], stage: str) -> list[Instruction]:
    """The instructions that made a stage's file system, its ancestors' first."""
    known = parents(read)
    above = lineage(read, known[stage]) if known.get(stage) in known else []
    return above + [i for i in read if i.stage == stage]


def both_targets_exist(read: list[Instruction]) -> Iterator[str]:
    yield from (f"no target {target}" for target in TARGETS if target not in parents(read))


def base_images_are_tagged(read: list[Instruction]) -> Iterator[str]:
    known = parents(read)
    for stage, image in known.items():
        _, _, tag = image.partition(":")
        if image not in known and tag in ("", "latest"):
            yield f"{stage}: {image} is whatever the name means that day; give a tag"


def users_are_numbers_and_not_root(read: list[Instruction]) -> Iterator[str]:
    for target in set(TARGETS) & set(parents(read)):
        users = [i.rest for i in lineage(read, target) if i.word == "USER"]
        if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
            yield f"{target}: runs as {users[-1] if users else 'root'}; Kubernetes checks runAsNonRoot against a number"


def lock_comes_before_source(read: list[Instruction]) -> Iterator[str]:
    """What the locked environment's layer depends on: the lock, and nothing that changes with every commit."""
    stages = {i.stage for i in read if "--require-hashes" in i.rest}
    if not stages:
        yield "nothing is installed with --require-hashes"
    for stage in stages:
        made_by = lineage(read, stage)
        install = next(n for n, i in enumerate(made_by) if "--require-hashes" in i.rest)
        copied = [i.rest for i in made_by[:install] if i.word in ("COPY", "ADD")]
        if len(copied) != 1 or "LOCK" not in copied[0]:
            yield f"{stage}: {copied} come before the locked packages, so a change of them installs everything anew"


def locked_packages_are_checked(read: list[Instruction]) -> Iterator[str]:
    for i in read:
        for command in i.rest.split("&&") if i.word == "RUN" else ():
            by_hash = "--require-hashes" in command or "--no-index" in command
            if "install" in command and ".lock" in command and not by_hash:
                yield f"{i.stage}: installs from a lock without --require-hashes"
            if "pip" in command and "install" in command and not by_hash and '"uv==' not in command:
                yield f"{i.stage}: installs what no lock names: {command.strip()}"


def images_copy_the_lock_built_environment_first(read: list[Instruction]) -> Iterator[str]:
    for target in set(TARGETS) & set(parents(read)):
        copies = [i.rest for i in lineage(read, target) if i.word == "COPY"]
        if not copies or not copies[0].startswith("--from=dependencies"):
            yield f"{target}: the several GB of dependencies are not its first layer"


def nothing_is_fetched_by_address(read: list[Instruction]) -> Iterator[str]:
    for i in read:
        if i.word == "ADD":
            yield f"{i.stage}: ADD fetches and unpacks in silence; use COPY"
        if found := HOST.search(i.rest):
            yield f"{i.stage}: names the host {found[0]}"


def no_secret_is_baked_in(read: list[Instruction]) -> Iterator[str]:
    for i in read:
        if i.word in ("ARG", "ENV") and (found := SECRET_NAMES.search(i.rest)):
            yield f"{i.stage}: {found[0]} would stay readable in the image"


def apt_leaves_no_lists(read: list[Instruction]) -> Iterator[str]:
    for i in read:
        if "apt-get install" in i.rest:
            for wanted in ("apt-get update", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*"):
                if wanted not in i.rest:
                    yield f"{i.stage}: apt-get install without {wanted}"


RULES: tuple[Callable[[list[Instruction]], Iterator[str]], ...] = (
    both_targets_exist,
    base_images_are_tagged,
    users_are_numbers_and_not_root,
    lock_comes_before_source,
    locked_packages_are_checked,
    images_copy_the_lock_built_environment_first,
    nothing_is_fetched_by_address,
    no_secret_is_baked_in,
    apt_leaves_no_lists,
)
