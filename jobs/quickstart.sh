#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a bare Debian 12 or Ubuntu 24.04 to 1,000 answered and checked prompts:
#   bash jobs/quickstart.sh
# Installs the packages that are missing (root or sudo), gets Kokkos, builds, runs jobs/quickstart.toml on two ranks and
# checks the answers against the known ones. The second run rebuilds nothing.
source "$(dirname "${BASH_SOURCE[0]}")/../.ci/bootstrap.sh"

started=$SECONDS
install_packages
configure -DNIGHTSHIFT_TESTS=OFF
build nightshift nightshift-rank

nightshift=$build_dir/bin/nightshift
output=$root/build/quickstart/answers.h5
rm -rf "$output" "$output.journal"
mkdir -p "$(dirname "$output")"
echo "==> nightshift run jobs/quickstart.toml --ranks 2"
"$nightshift" run jobs/quickstart.toml --ranks 2
echo "==> checking the answers"
"$nightshift" report "$output" --expected inputs/prompts/quickstart.h5 --min-right 0.95
echo "==> done in $((SECONDS - started)) s; the answers are in ${output#"$root"/}"
