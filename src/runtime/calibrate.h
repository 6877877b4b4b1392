// SPDX-License-Identifier: Apache-2.0
// Where shifting pays is a matter of this machine, this model and these degrees, so it is measured at start:
// made-up steps, in both layouts.
#pragma once

#include <functional>
#include <vector>

#include "model/files/model_files.h"
#include "model/model.h"
#include "parallel/layout/shift_policy.h"
#include "parallel/parallel.h"

namespace nightshift::runtime {

// Times steps of growing width: decodes after a short and a long context, and whole prompts, one to
// limits.max_query_tokens tokens. A step takes as long as on its slowest rank. Some seconds in all: growing
// stops where steps get slow, once there is enough to fit. `run` executes a plan to its end. Collective over
// `replica`; all its ranks run the same steps and return the same samples.
using RunStep = std::function<void(const BatchPlan&, parallel::Layout)>;
std::vector<parallel::StepSample> time_layouts(const RunStep& run, const model::StepLimits& limits,
                                               const parallel::Communicator& replica);

// All replicas time their steps at once, as they will run; rank 0's fit holds for everybody, so that all
// shift alike. Collective over the mesh's world. What the KV cache holds afterwards is worthless.
parallel::Calibration calibrate(model::Model& model, const parallel::DeviceMesh& mesh);

}  // namespace nightshift::runtime
