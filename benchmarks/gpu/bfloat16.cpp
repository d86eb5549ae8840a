// A stand-in for the package ml_dtypes: numpy's type bfloat16, as far as the GPU's tests need it, for a machine that
// has a compiler and no package index (gpu.sh). Casts to and from numpy's own numbers, sums and products; all else
// numpy does in float32. tests/bench/test_gpu.py compares it with the package.
#define PY_SSIZE_T_CLEAN
#define NPY_TARGET_VERSION NPY_1_22_API_VERSION
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <Python.h>
#include <numpy/arrayobject.h>
#include <numpy/ufuncobject.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if NPY_ABI_VERSION < 0x02000000
#define PyArray_DescrProto PyArray_Descr
#endif

namespace {

struct Scalar {
  PyObject_HEAD uint16_t bits;
};

PyTypeObject* type = nullptr;

float widened(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

// To nearest, ties to even; NaN stays NaN.
uint16_t rounded(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof f);
  if (std::isnan(f)) return static_cast<uint16_t>(bits >> 31 << 15 | 0x7fc0);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// ---- one number ----

PyObject* made(uint16_t bits) {
  PyObject* scalar = type->tp_alloc(type, 0);
  if (scalar) reinterpret_cast<Scalar*>(scalar)->bits = bits;
  return scalar;
}

float value(PyObject* scalar) { return widened(reinterpret_cast<Scalar*>(scalar)->bits); }

PyObject* scalar_new(PyTypeObject*, PyObject* args, PyObject*) {
  float f;
  return PyArg_ParseTuple(args, "f", &f) ? made(rounded(f)) : nullptr;
}

PyObject* scalar_float(PyObject* x) { return PyFloat_FromDouble(static_cast<double>(value(x))); }

PyObject* scalar_int(PyObject* x) { return PyLong_FromDouble(static_cast<double>(value(x))); }

int scalar_bool(PyObject* x) { return value(x) != 0; }

PyObject* scalar_text(PyObject* x) {
  PyObject* f = scalar_float(x);
  PyObject* text = f ? PyObject_Repr(f) : nullptr;
  Py_XDECREF(f);
  return text;
}

PyObject* scalar_compare(PyObject* a, PyObject* b, int op) {
  PyObject* f = scalar_float(a);
  PyObject* g = PyNumber_Float(b);
  PyObject* result = f && g ? PyObject_RichCompare(f, g, op) : nullptr;
  Py_XDECREF(f);
  Py_XDECREF(g);
  return result;
}

Py_hash_t scalar_hash(PyObject* x) {
  PyObject* f = scalar_float(x);
  const Py_hash_t hash = f ? PyObject_Hash(f) : -1;
  Py_XDECREF(f);
  return hash;
}

// ---- many ----

PyObject* getitem(void* data, void*) {
  uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return made(bits);
}

int setitem(PyObject* item, void* data, void*) {
  PyObject* f = PyNumber_Float(item);
  if (!f) return -1;
  const uint16_t bits = rounded(static_cast<float>(PyFloat_AsDouble(f)));
  Py_DECREF(f);
  std::memcpy(data, &bits, sizeof bits);
  return 0;
}

void copyswap(void* to, void* from, int swap, void*) {
  uint16_t bits;
  std::memcpy(&bits, from ? from : to, sizeof bits);
  if (swap) bits = static_cast<uint16_t>(bits << 8 | bits >> 8);
  std::memcpy(to, &bits, sizeof bits);
}

void copyswapn(void* to, npy_intp step, void* from, npy_intp from_step, npy_intp n, int swap, void*) {
  for (npy_intp i = 0; i < n; ++i) {
    copyswap(static_cast<char*>(to) + i * step, from ? static_cast<char*>(from) + i * from_step : nullptr, swap,
             nullptr);
  }
}

npy_bool nonzero(void* data, void*) {
  uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return widened(bits) != 0;
}

template <class T>
void to(void* from, void* out, npy_intp n, void*, void*) {
  for (npy_intp i = 0; i < n; ++i) {
    const float f = widened(static_cast<uint16_t*>(from)[i]);
    static_cast<T*>(out)[i] = std::is_same<T, bool>::value ? static_cast<T>(f != 0) : static_cast<T>(f);
  }
}

template <class T>
void from(void* in, void* out, npy_intp n, void*, void*) {
  for (npy_intp i = 0; i < n; ++i) static_cast<uint16_t*>(out)[i] = rounded(static_cast<float>(static_cast<T*>(in)[i]));
}

template <class T>
bool cast(PyArray_Descr* descr, int number) {
  PyArray_Descr* other = PyArray_DescrFromType(number);
  const bool done = PyArray_RegisterCastFunc(descr, number, to<T>) == 0 &&
                    PyArray_RegisterCastFunc(other, descr->type_num, from<T>) == 0;
  Py_DECREF(other);
  return done;
}

struct Add {
  static float of(float a, float b) { return a + b; }
};
struct Subtract {
  static float of(float a, float b) { return a - b; }
};
struct Multiply {
  static float of(float a, float b) { return a * b; }
};
struct Divide {
  static float of(float a, float b) { return a / b; }
};
struct Negative {
  static float of(float a, float) { return -a; }
};
struct Absolute {
  static float of(float a, float) { return std::fabs(a); }
};
struct Round {
  static float of(float a, float) { return std::nearbyint(a); }
};

// One or two inputs; of one, it is both.
template <class Op, int kInputs>
void loop(char** data, const npy_intp* n, const npy_intp* steps, void*) {
  for (npy_intp i = 0; i < *n; ++i) {
    uint16_t a, b;
    std::memcpy(&a, data[0] + i * steps[0], sizeof a);
    std::memcpy(&b, data[kInputs - 1] + i * steps[kInputs - 1], sizeof b);
    const uint16_t result = rounded(Op::of(widened(a), widened(b)));
    std::memcpy(data[kInputs] + i * steps[kInputs], &result, sizeof result);
  }
}

template <class Op, int kInputs>
bool computes(PyObject* numpy, const char* name, int number) {
  PyObject* ufunc = PyObject_GetAttrString(numpy, name);
  int types[kInputs + 1];
  for (int& t : types) t = number;
  const bool done = ufunc && PyUFunc_RegisterLoopForType(reinterpret_cast<PyUFuncObject*>(ufunc), number,
                                                         loop<Op, kInputs>, types, nullptr) == 0;
  Py_XDECREF(ufunc);
  return done;
}

PyArray_ArrFuncs functions;
PyArray_DescrProto proto;

// A type that has a name in files, and no arithmetic.
PyObject* opaque(const char* name) {
  PyArray_Descr* descr = nullptr;
  PyObject* fields = Py_BuildValue("[(ss)]", name, "u1");
  if (fields) PyArray_DescrConverter(fields, &descr);
  Py_XDECREF(fields);
  return reinterpret_cast<PyObject*>(descr);
}

bool filled(PyObject* module) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(scalar_new)},
      {Py_tp_repr, reinterpret_cast<void*>(scalar_text)},
      {Py_tp_str, reinterpret_cast<void*>(scalar_text)},
      {Py_tp_richcompare, reinterpret_cast<void*>(scalar_compare)},
      {Py_tp_hash, reinterpret_cast<void*>(scalar_hash)},
      {Py_nb_float, reinterpret_cast<void*>(scalar_float)},
      {Py_nb_int, reinterpret_cast<void*>(scalar_int)},
      {Py_nb_bool, reinterpret_cast<void*>(scalar_bool)},
      {0, nullptr},
  };
  PyType_Spec spec = {"ml_dtypes.bfloat16", sizeof(Scalar), 0, Py_TPFLAGS_DEFAULT, slots};
  PyObject* bases = PyTuple_Pack(1, &PyGenericArrType_Type);
  type = reinterpret_cast<PyTypeObject*>(PyType_FromSpecWithBases(&spec, bases));
  Py_XDECREF(bases);
  if (!type) return false;

  PyArray_InitArrFuncs(&functions);
  functions.getitem = reinterpret_cast<PyArray_GetItemFunc*>(getitem);
  functions.setitem = reinterpret_cast<PyArray_SetItemFunc*>(setitem);
  functions.copyswap = reinterpret_cast<PyArray_CopySwapFunc*>(copyswap);
  functions.copyswapn = reinterpret_cast<PyArray_CopySwapNFunc*>(copyswapn);
  functions.nonzero = reinterpret_cast<PyArray_NonzeroFunc*>(nonzero);
  Py_SET_REFCNT(reinterpret_cast<PyObject*>(&proto), 1);
  Py_SET_TYPE(reinterpret_cast<PyObject*>(&proto), &PyArrayDescr_Type);
  proto.typeobj = type;
  proto.kind = 'V';
  proto.type = 'E';
  proto.byteorder = '=';
  proto.flags = NPY_NEEDS_PYAPI | NPY_USE_GETITEM | NPY_USE_SETITEM;
  proto.elsize = sizeof(uint16_t);
  proto.alignment = alignof(uint16_t);
  proto.f = &functions;
  const int number = PyArray_RegisterDataType(&proto);
  if (number < 0) return false;
  PyArray_Descr* descr = PyArray_DescrFromType(number);
  const bool casts =
      cast<bool>(descr, NPY_BOOL) && cast<npy_byte>(descr, NPY_BYTE) && cast<npy_ubyte>(descr, NPY_UBYTE) &&
      cast<npy_short>(descr, NPY_SHORT) && cast<npy_ushort>(descr, NPY_USHORT) && cast<npy_int>(descr, NPY_INT) &&
      cast<npy_uint>(descr, NPY_UINT) && cast<npy_long>(descr, NPY_LONG) && cast<npy_ulong>(descr, NPY_ULONG) &&
      cast<npy_longlong>(descr, NPY_LONGLONG) && cast<npy_ulonglong>(descr, NPY_ULONGLONG) &&
      cast<npy_float>(descr, NPY_FLOAT) && cast<npy_double>(descr, NPY_DOUBLE);
  PyObject* numpy = PyImport_ImportModule("numpy");
  const bool sums = numpy && computes<Add, 2>(numpy, "add", number) &&
                    computes<Subtract, 2>(numpy, "subtract", number) &&
                    computes<Multiply, 2>(numpy, "multiply", number) && computes<Divide, 2>(numpy, "divide", number) &&
                    computes<Negative, 1>(numpy, "negative", number) &&
                    computes<Absolute, 1>(numpy, "absolute", number) && computes<Round, 1>(numpy, "rint", number);
  Py_XDECREF(numpy);
  return casts && sums && PyArray_RegisterCanCast(descr, NPY_FLOAT, NPY_NOSCALAR) == 0 &&
         PyArray_RegisterCanCast(descr, NPY_DOUBLE, NPY_NOSCALAR) == 0 &&
         PyObject_SetAttrString(reinterpret_cast<PyObject*>(type), "dtype", reinterpret_cast<PyObject*>(descr)) == 0 &&
         PyModule_AddObject(module, "bfloat16", reinterpret_cast<PyObject*>(type)) == 0 &&
         PyModule_AddObject(module, "float8_e4m3fn", opaque("float8_e4m3fn")) == 0 &&
         PyModule_AddObject(module, "float8_e5m2", opaque("float8_e5m2")) == 0;
}

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "ml_dtypes", "llmcore's stand-in", -1, nullptr, nullptr, nullptr, nullptr, nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit_ml_dtypes() {
  import_array();
  import_umath();
  PyObject* module = PyModule_Create(&definition);
  if (module && !filled(module)) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
