static void register_gemm(KernelTable&) {}
