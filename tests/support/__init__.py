"""What tests share: real servers, real processes, a proxy that misbehaves on demand."""
