#!/bin/sh
# Draws the pictures of this folder: doc/pictures/draw.sh [MAILAFFINITY [FOLDER]]
set -e
here=$(dirname "$0")
mailaffinity=${1:-mailaffinity}
folder=${2:-$here}

draw() {
	picture=$1 cluster=$2
	shift 2
	"$mailaffinity" --config "$here/$cluster.toml" what-if --generate 1000000 --svg "$folder/$picture.svg" "$@"
}

draw shares ten-nodes
draw node-down three-nodes --down node2
draw one-of-ten-down ten-nodes --down node02
