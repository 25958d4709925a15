// The CUDA launches, one for each op: on the caller's device and stream, without a synchronisation.
#pragma once

#include "args.h"

namespace fairtat {
namespace cuda {

// Where to launch: the device of the tensors and the stream that the caller works on.
struct Place {
  int device;
  void* stream;  // cudaStream_t
};

// Each throws std::runtime_error where CUDA refuses the launch.
void pgd_init(const PgdInitArgs& a, Place place);
void pgd_step(const PgdStepArgs& a, Place place);
void logit_loss(const LogitLossArgs& a, Place place);
void sample_targets(const SampleTargetsArgs& a, Place place);
void class_stats(const ClassStatsArgs& a, Place place);

}  // namespace cuda
}  // namespace fairtat
