"""Download one of the paper's conversation files and check it bit for bit.

Reads   <url>/<file> from the internet; resumes a partial download of an earlier call
Writes  the file, whole or not at all

    python scripts/download.py datasets/published/bio-dataset-1.json
"""

from pathlib import Path

from pedalign.core.errors import argument_parser, run
from pedalign.data.sources.published import REPOSITORY, check_published, fetch, published_blob


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("output", type=Path, help="bio-dataset-1.json, -2, -3 or -ppl in the folder of your choice")
    parser.add_argument("--url", default=REPOSITORY, help="URL of the folder with the files, or of a mirror")
    args = parser.parse_args()

    wanted = published_blob(args.output.name)
    if not args.output.exists():
        fetch(f"{args.url.rstrip('/')}/{args.output.name}", args.output, wanted)
    check_published([args.output])
    print(f"{args.output}: the published file, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    run(main)
