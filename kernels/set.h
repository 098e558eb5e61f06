// Included by sets.h for each instruction set: its lanes and the kernels, in a namespace of its own.

namespace SET {
namespace {

#include "lanes.h"
#include KERNELS

}  // namespace
}  // namespace SET

#undef SET
#undef TARGET
#undef LANES
#undef REGISTERS
