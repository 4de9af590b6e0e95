#!/usr/bin/env bash
# check-format.sh: names each C, header and CUDA file that clang-format 14 would change. Exit 1 when there is one,
# 77 when that clang-format is not installed (other versions lay out some lines otherwise).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

formatter=
for name in clang-format-14 clang-format; do
    if command -v "$name" >/dev/null && "$name" --version | grep -q 'version 14\.'; then
        formatter=$name
        break
    fi
done
if [ -z "$formatter" ]; then
    echo "format: clang-format 14 is not installed; nothing was checked"
    exit 77
fi

# Tracked files and new ones that git does not ignore; outside a checkout, all that lie in the source folders.
list_files() {
    git ls-files --cached --others --exclude-standard -- '*.c' '*.h' '*.cu' 2>/dev/null ||
        find include src tests bench examples \( -name '*.c' -o -name '*.h' -o -name '*.cu' \) 2>/dev/null
}

count=0 differing=0
while IFS= read -r file; do
    [ -f "$file" ] || continue
    count=$((count + 1))
    if ! "$formatter" --dry-run --Werror "$file" >/dev/null 2>&1; then
        echo "format: $file differs"
        differing=$((differing + 1))
    fi
done < <(list_files | sort)

if [ "$count" -eq 0 ]; then
    echo "format: no files found"
    exit 1
fi
if [ "$differing" -gt 0 ]; then
    echo "format: $differing of $count files differ; $formatter -i FILE puts them right"
    exit 1
fi
echo "format: $count files, all as $formatter lays them out"
