static void register_softmax(KernelTable&) {}
