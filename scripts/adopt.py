r"""Take a checkpoint that was trained elsewhere into the results, so that it is evaluated like one of our own.

Reads   a checkpoint folder or hub id; its weights as safetensors
Writes  a checkpoint folder of links to its files, and a manifest, last

    python scripts/adopt.py some-org/some-tutor --output results/theirs/sft/checkpoint \
        --manifest results/theirs/sft/checkpoint.json
"""

from pathlib import Path

from pedalign.core.artifacts import whole_directory
from pedalign.core.errors import argument_parser, run
from pedalign.core.provenance import verified, write_manifest
from pedalign.models.checkpoints import find_checkpoint


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("source", help="folder or hub id")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint folder")
    parser.add_argument("--manifest", type=Path, required=True, help="the checkpoint's manifest, written last")
    args = parser.parse_args()

    files = find_checkpoint(args.source)
    inputs = verified(args.source)
    with whole_directory(args.output) as folder:
        for file in files:
            (folder / file.name).symlink_to(file.resolve())
    write_manifest(args.manifest, args.output, inputs, {}, adopted_from=args.source)
    print(f"{args.output}: {len(files)} files of {args.source}")


if __name__ == "__main__":
    run(main)
