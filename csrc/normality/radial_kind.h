// The radial functions of `pairwise_kernel`, as every device numbers them.
#pragma once

namespace sslspec {

enum class RadialKind { series = 0, gaussian = 1, inverse_root = 2 };

}  // namespace sslspec
