static void register_optim(KernelTable&) {}
