"""A program on the Neural Engine, dispatched from Python: ctypes and memoryviews, nothing else. The calls are those of Espresso's documented order."""

import ctypes
import time

started = time.perf_counter()

import sys  # noqa: E402

from serve import arguments, serve  # noqa: E402

NEURAL_ENGINE = 4
HANDLE = ctypes.c_void_p


def main():
    config = arguments()
    library = ctypes.CDLL(config["library"])

    def function(name, *types, result=ctypes.c_int64):
        found = getattr(library, name)
        found.argtypes, found.restype = types, result
        return found

    def call(name, *given):
        call = getattr(library, f"e5rt_{name}")
        call.restype = ctypes.c_int64
        code = call(*(ctypes.c_uint64(one) if isinstance(one, int) else one for one in given))
        if code != 0:
            raise RuntimeError(f"e5rt_{name} failed with {code}")

    def made(name, *given, first=True):
        handle = HANDLE()
        cell = ctypes.byref(handle)
        call(name, *((cell, *given) if first else (*given, cell)))
        return handle

    push = function("objc_autoreleasePoolPush", result=HANDLE)
    pop = function("objc_autoreleasePoolPop", HANDLE, result=None)
    execute = function("e5rt_execution_stream_execute_sync", HANDLE)

    pool = push()
    settings = made("e5_compiler_config_options_create")
    call("e5_compiler_config_options_set_cache_bundle_location", settings, config["cache"].encode())
    compiler = made("e5_compiler_create_with_config", settings)
    options = made("e5_compiler_options_create")
    call("e5_compiler_options_set_compute_device_types_mask", options, NEURAL_ENGINE)
    call("e5_compiler_options_set_force_recompilation", options, 1)
    compiled = made("e5_compiler_compile", compiler, config["mil"].encode(), options, first=False)
    main_ = made("program_library_retain_program_function", compiled, b"main", first=False)
    create = made("precompiled_compute_op_create_options_create_with_program_function", main_)
    call("precompiled_compute_op_create_options_set_operation_name", create, b"main")
    call("precompiled_compute_op_create_options_set_allocate_intermediate_buffers", create, 1)
    operation = made("execution_stream_operation_create_precompiled_compute_operation_with_options", create)

    def port(direction, name, size):
        buffer = made("buffer_object_alloc", size, 0)
        address = made("buffer_object_get_data_ptr", buffer, first=False)
        bound = made(f"execution_stream_operation_retain_{direction}_port", operation, name.encode(), first=False)
        call("io_port_bind_buffer_object", bound, buffer)
        return memoryview((ctypes.c_char * size).from_address(address.value)).cast("B")

    size = config["bytes"]
    input_ = port("input", config["input"], size)
    output = port("output", config["output"], size)
    stream = made("execution_stream_create")
    call("execution_stream_encode_operation", stream, operation)
    pop(pool)
    values = memoryview(bytearray(size))

    # As runSync does: values of the caller's in, a result that belongs to the caller out.
    def run(values):
        input_[:] = values
        pool = push()
        code = execute(stream)
        pop(pool)
        if code != 0:
            raise RuntimeError(f"execute failed with {code}")
        return bytes(output)

    def step(repetitions):
        for _ in range(repetitions):
            run(values)

    step(1000)
    serve(f"ctypes {'.'.join(map(str, sys.version_info[:3]))}", step, started)


if __name__ == "__main__":
    main()
