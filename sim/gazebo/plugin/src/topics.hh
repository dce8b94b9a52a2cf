// What a ROS user can watch while the cars drive: nothing is filled in that nobody listens to.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include <ros/ros.h>

#include "car.hh"

namespace car_simulator {

// A picture in memory, rgb8, row by row from the top.
struct Picture {
  const uint8_t *data;
  uint32_t width;
  uint32_t height;
};

class Topics {
 public:
  explicit Topics(ros::NodeHandle &node);

  void PublishClock(double time_s);

  // Car 0 is /racecar, the others are /racecar_<number>.
  void PublishCar(uint32_t car, double time_s, const Motion &motion, const Picture &picture);
  void PublishCommand(uint32_t car, const Command &command);

 private:
  struct CarTopics {
    std::string name;
    ros::Publisher picture;
    ros::Publisher odometry;
    ros::Publisher joints;
    ros::Publisher command;
  };

  CarTopics &Of(uint32_t car);

  ros::NodeHandle node_;
  ros::Publisher clock_;
  std::map<uint32_t, CarTopics> cars_;
};

}  // namespace car_simulator
