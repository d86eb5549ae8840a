// One pool of threads for all kernels. A plain function-pointer interface: kernels are compiled once per instruction
// set and must not instantiate anything that another set's copy could replace (cpu/simd.h); hence `static` too.
#pragma once
#include <cstdint>

namespace llmcore {

using ParallelBody = void (*)(void* context, int64_t index);

// Runs body(context, i) once for every i in [0, n), in any order, on up to num_threads() threads including the caller.
// A body's result may depend only on i, never on which thread runs it: this makes results independent of the number of
// threads. A call from inside a body, or while another Python thread is using the pool, runs inline.
void parallel_for(int64_t n, ParallelBody body, void* context);
// The same with a callable body(i).
template <class Body>
static inline void parallel(int64_t n, const Body& body) {
  parallel_for(n, [](void* b, int64_t i) { (*static_cast<const Body*>(b))(i); }, const_cast<Body*>(&body));
}

int num_threads();
void set_num_threads(int n);  // throws std::invalid_argument unless 1 <= n <= 1024
// Returns the number of processors this process may use: the smaller of its affinity mask and its cgroup quota (rounded
// up).
int available_cpus();

}  // namespace llmcore
