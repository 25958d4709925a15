// The ops of one instruction set, declared for its table (table.cpp).
#pragma once

#include "cpu/kernels.h"

namespace fairtat {
namespace FAIRTAT_ISA {

void pgd_init(const PgdInitArgs& a);
void pgd_step(const PgdStepArgs& a);
BadIndex logit_loss(const LogitLossArgs& a);
BadIndex sample_targets(const SampleTargetsArgs& a);
BadIndex class_stats(const ClassStatsArgs& a);
void winograd_tiles(const WinogradArgs& a);
void winograd_image(const WinogradArgs& a);

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
