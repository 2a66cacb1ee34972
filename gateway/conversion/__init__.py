"""Building, checking and describing `.tflite` artifacts; only ``builder`` needs TensorFlow."""
