"""Write ptb_words.json: captions of ours, and the words that COCO's evaluation counts in them.

Run with the folder of pycocoevalcap 1.2's `tokenizer`, which holds Stanford CoreNLP 3.4.1 as a Java
archive, and with `java` installed:

    python tests/vectors/make_ptb_words.py FOLDER > tests/vectors/ptb_words.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DROPPED = {*"'.?!,:;-`", "''", "``", "--", "...", "-LRB-", "-RRB-", "-LCB-", "-RCB-"}
"""What that evaluation takes out. The tokenizer's brackets are in lower case, so they stay."""


def main(folder: Path) -> None:
    """Tokenise the captions that the vectors hold already, or those of a new list."""
    path = Path(__file__).with_name("ptb_words.json")
    captions = [row["caption"] for row in json.loads(path.read_text())["captions"]]
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(folder / "stanford-corenlp-3.4.1.jar")]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = subprocess.run(
        command, input="\n".join(captions), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [
        {"caption": caption, "words": [word for word in line.split() if word not in DROPPED]}
        for caption, line in zip(captions, lines, strict=True)
    ]
    print('{"origin": "Stanford CoreNLP 3.4.1, pycocoevalcap 1.2", "captions": [')
    print(",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    print("]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
