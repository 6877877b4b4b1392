// SPDX-License-Identifier: Apache-2.0
// What is left of a Slurm allocation when nodes have failed. It outlives them where it was asked for with
// --no-kill.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/job/geometry.h"

namespace nightshift::runtime {

// Of `sinfo --noheader --Node --format='%N %t'`: names, in its order and once each, of the nodes that can run
// something. "down*", "drained", "fail", "boot" and the like cannot.
std::vector<std::string> usable_nodes(std::string_view sinfo);

// Of `asked`, in its order, those that have said their name on a line of their own.
std::vector<std::string> answering_nodes(std::string_view srun, const std::vector<std::string>& asked);

// The usable_nodes() of this allocation that start a process when asked, within a minute; empty where Slurm
// does not say.
std::vector<std::string> probe_usable_nodes();

// The same job on `left` of its `nodes` nodes: as many ranks on each as before, as whole replicas. Without a
// rank where not even one replica fits.
Geometry shrink(Geometry geometry, int nodes, int left);

// `command`, an srun or mpirun, on these nodes alone.
void keep_to_nodes(LaunchCommand& command, const std::vector<std::string>& nodes, int ranks_per_node);

}  // namespace nightshift::runtime
