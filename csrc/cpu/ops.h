// The ops of one instruction set, declared for its table (table.cpp).
#pragma once

#include "cpu/kernels.h"

namespace fairtat {
namespace FAIRTAT_ISA {

#define OP(name, Type, Result) Result name(const Type& a);
#define CPU_OP OP
#include "ops.def"

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
